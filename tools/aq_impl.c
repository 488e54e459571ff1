/* aq_impl.c - the one file of the `aq` command that compiles the library. */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"
