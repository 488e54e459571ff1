/* What the public part may include. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
