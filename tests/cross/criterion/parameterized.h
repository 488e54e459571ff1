/* All of it is in the stand-in for <criterion/criterion.h>. */
#include "criterion.h"
