/* The public part alone. */
#include "../../arrowquant.h"

typedef int iso_c_forbids_an_empty_file;
