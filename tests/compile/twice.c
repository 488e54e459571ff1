/* Included for its types, then with the implementation, then again both ways. */
#include "../../arrowquant.h"
#define ARROWQUANT_IMPLEMENTATION
#include "../../arrowquant.h"
#include "../../arrowquant.h"
#undef ARROWQUANT_IMPLEMENTATION
#include "../../arrowquant.h"

int main(void) { return aq_version()[0] == '\0'; }
