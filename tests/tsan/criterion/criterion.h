/* A stand-in for Criterion that runs all tests of a file in one process, one after the other.
 * Criterion gives each test a process of its own through a library that maps memory at
 * addresses that ThreadSanitizer has taken. The Makefile puts this directory first for the
 * ThreadSanitizer build of tests/test_threads*.c; only what those tests use is here. */
#ifndef CRITERION_STAND_IN_H
#define CRITERION_STAND_IN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct stand_in_test {
    const char *suite, *name;
    void (*run)(void);
    struct stand_in_test *next;
} stand_in_test;

static stand_in_test *stand_in_tests;
static int stand_in_failures;

/* Options of a test (.init, .timeout, ...) are refused by the compiler. */
#define Test(suite, name)                                                                \
    static void suite##_##name(void);                                                    \
    __attribute__((constructor)) static void suite##_##name##_add(void) {                \
        static stand_in_test test = {#suite, #name, suite##_##name, NULL};               \
        test.next = stand_in_tests;                                                      \
        stand_in_tests = &test;                                                          \
    }                                                                                    \
    static void suite##_##name(void)

/* A failed assertion ends the program: the remaining tests count as failed. */
static inline void stand_in_check(bool good, bool end, const char *file, int line,
                                  const char *what) {
    if (good) return;
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    stand_in_failures++;
    if (end) exit(1);
}

#define cr_check_(good, end, what) stand_in_check((good), (end), __FILE__, __LINE__, (what))

/* The optional message of Criterion is not evaluated; the expression is printed. */
#define cr_assert(good, ...) cr_check_(good, true, #good)
#define cr_expect(good, ...) cr_check_(good, false, #good)
#define cr_assert_not(bad, ...) cr_check_(!(bad), true, "not " #bad)
#define cr_assert_eq(a, b, ...) cr_check_((a) == (b), true, #a " == " #b)
#define cr_expect_eq(a, b, ...) cr_check_((a) == (b), false, #a " == " #b)
#define cr_assert_neq(a, b, ...) cr_check_((a) != (b), true, #a " != " #b)
#define cr_expect_neq(a, b, ...) cr_check_((a) != (b), false, #a " != " #b)
#define cr_assert_lt(a, b, ...) cr_check_((a) < (b), true, #a " < " #b)
#define cr_assert_leq(a, b, ...) cr_check_((a) <= (b), true, #a " <= " #b)
#define cr_assert_gt(a, b, ...) cr_check_((a) > (b), true, #a " > " #b)
#define cr_assert_geq(a, b, ...) cr_check_((a) >= (b), true, #a " >= " #b)
#define cr_assert_null(p, ...) cr_check_((p) == NULL, true, #p " == NULL")
#define cr_assert_not_null(p, ...) cr_check_((p) != NULL, true, #p " != NULL")
#define cr_assert_str_eq(a, b, ...) cr_check_(strcmp(a, b) == 0, true, #a " is " #b)
#define cr_expect_str_eq(a, b, ...) cr_check_(strcmp(a, b) == 0, false, #a " is " #b)
#define cr_assert_arr_eq(a, b, n, ...) cr_check_(memcmp(a, b, n) == 0, true, #a " is " #b)
#define cr_expect_arr_eq(a, b, n, ...) cr_check_(memcmp(a, b, n) == 0, false, #a " is " #b)
#define cr_assert_fail(...) cr_check_(false, true, "cr_assert_fail")

int main(void) {
    stand_in_test *test;
    int passed = 0, failed = 0;
    for (test = stand_in_tests; test != NULL; test = test->next) {
        int before = stand_in_failures;
        test->run();
        if (stand_in_failures == before) {
            passed++;
        } else {
            printf("failed: %s::%s\n", test->suite, test->name);
            failed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#endif
