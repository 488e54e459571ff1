/* Both parts of the header, nothing before and nothing after. */
#define ARROWQUANT_IMPLEMENTATION
#include "../../arrowquant.h"
