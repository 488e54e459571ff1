/* A stand-in for Criterion, of which there is no library for the machines of make cross.
 * A test runs in a process of its own, as there: one that crashes fails alone. Only what
 * the tests of tests/ use is here. Argument: only tests with this in "suite::name". */
#ifndef CRITERION_STAND_IN_H
#define CRITERION_STAND_IN_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct stand_in_options {
    int first; /* so that {0, .init = f} says nothing twice */
    void (*init)(void);
    void (*fini)(void);
    double timeout; /* seconds */
} stand_in_options;

/* A suite is an entry without a function. */
typedef struct stand_in_test {
    const char *suite, *name;
    void (*run)(void);
    stand_in_options options;
    struct stand_in_test *next;
} stand_in_test;

static stand_in_test *stand_in_tests;
static const stand_in_test *stand_in_suite; /* of the test that runs; NULL: it has none */
static int stand_in_failures;

/* An emulator is slower than the machines that the times were chosen for. */
#define STAND_IN_PATIENCE 20

#define STAND_IN_SKIPPED 77 /* exit status of a test */

#define STAND_IN_ADD(id, suite, name, function, ...)                                     \
    __attribute__((constructor)) static void id##_add(void) {                            \
        static stand_in_test test = {suite, name, function, {0, __VA_ARGS__}, NULL};     \
        test.next = stand_in_tests;                                                      \
        stand_in_tests = &test;                                                          \
    }

#define TestSuite(suite, ...) STAND_IN_ADD(suite, #suite, "", NULL, __VA_ARGS__)

#define Test(suite, name, ...)                                                           \
    static void suite##_##name(void);                                                    \
    STAND_IN_ADD(suite##_##name, #suite, #name, suite##_##name, __VA_ARGS__)             \
    static void suite##_##name(void)

/* All parameters one after the other, as one test. */
struct criterion_test_params {
    char *values;
    size_t bytes, count;
};
#define cr_malloc malloc
#define cr_make_param_array(type, values, count, ...)                                    \
    ((struct criterion_test_params){(char *)(values), sizeof(type), (count)})
#define ParameterizedTestParameters(suite, name)                                         \
    static struct criterion_test_params suite##_##name##_params(void)
#define ParameterizedTest(param, suite, name, ...)                                       \
    static void suite##_##name##_one(param);                                             \
    static void suite##_##name(void) {                                                   \
        struct criterion_test_params p = suite##_##name##_params();                      \
        for (size_t i = 0; i < p.count; i++)                                             \
            suite##_##name##_one((void *)(p.values + i * p.bytes));                      \
    }                                                                                    \
    STAND_IN_ADD(suite##_##name, #suite, #name, suite##_##name, __VA_ARGS__)             \
    static void suite##_##name##_one(param)

static inline void stand_in_end(void) {
    if (stand_in_suite != NULL && stand_in_suite->options.fini != NULL)
        stand_in_suite->options.fini();
    fflush(NULL);
    _exit(stand_in_failures != 0);
}

/* A test that never calls them must not have them unused. */
static inline void stand_in_fail(bool end, const char *file, int line, const char *what,
                                 const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "%s:%d: failed: %s", file, line, what);
    if (format[0] != '\0') {
        fputs(": ", stderr);
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
    }
    fputc('\n', stderr);
    stand_in_failures++;
    if (end) stand_in_end();
}

#define STAND_IN_CHECK(good, end, what, ...)                                             \
    do {                                                                                 \
        if (!(good)) stand_in_fail(end, __FILE__, __LINE__, what, "" __VA_ARGS__);       \
    } while (0)

#define STAND_IN_OP(a, op, b, end, ...)                                                  \
    STAND_IN_CHECK((a)op(b), end, #a " " #op " " #b, __VA_ARGS__)

#define cr_assert(good, ...) STAND_IN_CHECK(good, true, #good, __VA_ARGS__)
#define cr_expect(good, ...) STAND_IN_CHECK(good, false, #good, __VA_ARGS__)
#define cr_assert_not(bad, ...) STAND_IN_CHECK(!(bad), true, "not " #bad, __VA_ARGS__)
#define cr_expect_not(bad, ...) STAND_IN_CHECK(!(bad), false, "not " #bad, __VA_ARGS__)
#define cr_assert_eq(a, b, ...) STAND_IN_OP(a, ==, b, true, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) STAND_IN_OP(a, ==, b, false, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) STAND_IN_OP(a, !=, b, true, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) STAND_IN_OP(a, !=, b, false, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) STAND_IN_OP(a, <, b, true, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) STAND_IN_OP(a, <=, b, true, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) STAND_IN_OP(a, <=, b, false, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) STAND_IN_OP(a, <, b, false, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) STAND_IN_OP(a, >, b, false, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) STAND_IN_OP(a, >=, b, false, __VA_ARGS__)
#define cr_expect_not_null(p, ...) STAND_IN_OP(p, !=, NULL, false, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) STAND_IN_OP(strcmp(a, b), ==, 0, false, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) STAND_IN_OP(a, >, b, true, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) STAND_IN_OP(a, >=, b, true, __VA_ARGS__)
#define cr_assert_null(p, ...) STAND_IN_OP(p, ==, NULL, true, __VA_ARGS__)
#define cr_expect_null(p, ...) STAND_IN_OP(p, ==, NULL, false, __VA_ARGS__)
#define cr_assert_not_null(p, ...) STAND_IN_OP(p, !=, NULL, true, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) STAND_IN_OP(strcmp(a, b), ==, 0, true, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) STAND_IN_OP(strcmp(a, b), !=, 0, true, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)                                                   \
    STAND_IN_OP(memcmp(a, b, n), ==, 0, true, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)                                                   \
    STAND_IN_OP(memcmp(a, b, n), ==, 0, false, __VA_ARGS__)
#define cr_assert_float_eq(a, b, within, ...)                                            \
    STAND_IN_CHECK((a) - (b) <= (within) && (b) - (a) <= (within), true, #a " is " #b,   \
                   __VA_ARGS__)
#define cr_assert_fail(...) STAND_IN_CHECK(false, true, "cr_assert_fail", __VA_ARGS__)
#define cr_log_info(...) ((void)0)
#define cr_skip_test(...) _exit(STAND_IN_SKIPPED)

static const stand_in_test *stand_in_suite_of(const stand_in_test *test) {
    const stand_in_test *suite = stand_in_tests;
    while (suite != NULL &&
           (suite->run != NULL || strcmp(suite->suite, test->suite) != 0))
        suite = suite->next;
    return suite;
}

static void stand_in_run(const stand_in_test *test) {
    double timeout = test->options.timeout;
    stand_in_suite = stand_in_suite_of(test);
    if (timeout == 0 && stand_in_suite != NULL) timeout = stand_in_suite->options.timeout;
    alarm((unsigned)(timeout * STAND_IN_PATIENCE));
    if (stand_in_suite != NULL && stand_in_suite->options.init != NULL)
        stand_in_suite->options.init();
    test->run();
    stand_in_end();
}

/* The exit status of a test; what was written before it must not come twice. */
static int stand_in_status(const stand_in_test *test) {
    int status = -1;
    pid_t child;
    fflush(NULL);
    child = fork();
    if (child == 0) stand_in_run(test);
    if (child < 0 || waitpid(child, &status, 0) != child) return 1;
    if (WIFSIGNALED(status)) fprintf(stderr, "signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv) {
    const stand_in_test *test;
    int passed = 0, failed = 0, skipped = 0;
    for (test = stand_in_tests; test != NULL; test = test->next) {
        char name[256];
        snprintf(name, sizeof name, "%s::%s", test->suite, test->name);
        if (test->run == NULL || (argc > 1 && strstr(name, argv[1]) == NULL)) continue;
        switch (stand_in_status(test)) {
        case 0:
            passed++;
            break;
        case STAND_IN_SKIPPED:
            skipped++;
            break;
        default:
            failed++;
            fflush(stderr);
            printf("failed: %s\n", name);
        }
    }
    printf("%d passed, %d failed", passed, failed);
    if (skipped > 0) printf(", %d skipped", skipped);
    putchar('\n');
    return failed != 0 || passed == 0;
}

#endif
