/* System headers come first: under -std=c99 they have then hidden what POSIX adds. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define ARROWQUANT_IMPLEMENTATION
#include "../../arrowquant.h"

int main(void) {
    printf("%s", aq_version());
    return 0;
}
