#!/bin/sh
# Tests tools/check_header: a small header that obeys every rule, then one break per rule.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
export CODECS=
passed=0 failed=0

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$1"; sed 's/^/    /' "$tmp/out"; }

cat >"$tmp/good.h" <<'END'
/* arrowquant.h - v1.2.3 - a header - MIT
 *
 * Contents, see also [51]
 *   [10] Version
 *   [20] Values, "quoted"    [50] Errors
 *   [51] Kernels
 */
#ifndef ARROWQUANT_H
#define ARROWQUANT_H
#define AQ_VERSION_STRING "1.2.3"
#define AQ_API extern
#ifdef __cplusplus
extern "C" {
#endif
/*===
 * MARK: - [10] Version (public)
 *===*/
/* aq_version / _number - the version: "{" and '{' are no braces. */
AQ_API const char *aq_version(void);
AQ_API int aq_number(void);

/*===
 * MARK: - [20] Values, "quoted" (public)
 *===*/
typedef struct aq_value {
    int a; /* { */
    int (*call)(int x);
} aq_value;
typedef int (*aq_callback)(int a, int b);

/* aq_apply - seven parameters, one of them a function.
 *   a  in  any */
AQ_API __attribute__((nonnull(1, 7))) int aq_apply(const char *f, int b, int c, int d,
                                                   int e, int g,
                                                   void (*call)(int, int));
#ifdef __cplusplus
}
#endif
#endif
#ifdef ARROWQUANT_IMPLEMENTATION
#ifndef AQI_DONE
#define AQI_DONE
#define _POSIX_C_SOURCE 200809L
/*===
 * MARK: - [50] Errors (private)
 *===*/
struct aqi_table {
    int (*fn)(int);
};
static const char *const aqi_names[2] = {"a", "};"};
static int aqi_dispatch = 1;

static int aqi_double(int x) {
    int twice = 2 * x;
    return twice;
}

/* Of the recursion below. */
static int aqi_odd(int x);

static int aqi_even(int x) { return x == 0 ? 1 : aqi_odd(x - 1); }

static int aqi_odd(int x) { return x == 0 ? 0 : aqi_even(x - 1); }

static const struct aqi_table aqi_rows = {aqi_double};

const char *aq_version(void) { return aqi_names[0]; }

int aq_number(void) {
    static const int fixed = 3;
    return fixed + aqi_rows.fn(aqi_dispatch) + aqi_even(2);
}
/*===
 * MARK: - [51] Kernels (private)
 *===*/
int aq_apply(const char *f, int b, int c, int d, int e, int g, void (*call)(int, int)) {
    call(b, c);
    return f == 0 ? d + e : g + aq_number();
}
#endif
#endif
END
if sh tools/check_header "$tmp/good.h" >"$tmp/out" 2>&1; then ok; else bad "the good header fails"; fi

# breaks RULE SED-SCRIPT: the broken copy must fail, by a line of that rule and of no other.
breaks() {
    sed "$2" "$tmp/good.h" >"$tmp/broken.h"
    if cmp -s "$tmp/good.h" "$tmp/broken.h"; then
        : >"$tmp/out"
        bad "$1: the break '$2' changes nothing"
    elif sh tools/check_header "$tmp/broken.h" >"$tmp/out" 2>&1; then
        bad "$1: not noticed: $2"
    elif ! grep -q "($1)\$" "$tmp/out"; then
        bad "$1: noticed as something else: $2"
    elif grep '^.*: .*([a-z-]*)$' "$tmp/out" | grep -qv "($1)\$"; then
        bad "$1: and more than that: $2"
    else
        ok
    fi
}

long=$(printf '%081d' 0)
many=$(awk 'BEGIN { for (i = 0; i < 99; i++) printf "    twice++;\\n" }')
hundred_fifty=$(awk 'BEGIN { for (i = 0; i < 150; i++) printf " *\\n" }')

breaks columns "s|^/\* Of the|/* $long Of the|"
breaks tab 's/    call(b/\tcall(b/'
breaks blank 's/call(b, c);/& /'
breaks blank 's/call(b, c);/&\r/'
breaks ascii 's/Of the recursion/Of the r\xc3\xa9cursion, recursion/'
breaks todo 's/Of the recursion/TODO recursion/'
breaks todo 's/Of the recursion/XXX recursion/'
breaks version 's/v1\.2\.3/v1.2.4/'
breaks version 's/arrowquant.h - v/arrowquant.h v/'
breaks top-comment "s|^ \* Contents.*|&\n$hundred_fifty *|"
breaks contents 's/^ \*   \[51\] Kernels$/ */'
breaks contents 's/MARK: - \[20\] Values,/MARK: - [20] Value,/'
breaks contents 's/^ \*   \[51\] Kernels$/&\n *   [60] More/'
breaks contents 's/\[50\] Errors$/[55] Errors/'
breaks contents 's/^ \*   \[10\] Version/ *   [20] Version/'
breaks ascending 's/\[20\] Values/[60] Values/'
breaks ascending 's/\[51\] Kernels/[50] Kernels/'
breaks documented 's|aq_version / _number|aq_version|'
breaks documented 's|^/\* aq_apply - seven|/* aq_appl - seven|'
breaks documented 's|^typedef int (\*aq_callback.*|&\n\nAQ_API int aq_number(void);|'
breaks defined 's|^AQ_API int aq_number|/* aq_none, aq_number */\nAQ_API int aq_none(void);\n&|'
breaks length "s/^    int twice = 2 \* x;/&\n$many/"
breaks parameters \
    's/^static int aqi_double/static int aqi_many(int a, int b, int c, int d, int e, int f,\n\
    int g, void (*h)(int)) { return a; }\n\n&/'
breaks forward-declaration 's|^static int aqi_dispatch.*|&\n\nstatic int aqi_double(int x);|'
breaks forward-declaration 's|Of the recursion below|Of what is below|'
breaks forward-declaration \
    's|^/\* Of the rec.*|/* Recursion. */\nstatic int aqi_late(int x);\n\n&|
     s|^int aq_apply|static int aqi_late(int x) { return x; }\n\n&|'
breaks layers 's/return aqi_names\[0\];/return aqi_names[aq_apply("", 0, 0, 0, 0, 0, 0)];/'
breaks name-macro 's/^#define AQI_DONE/#define DONE\n&/'
breaks name-type 's/^struct aqi_table/struct table { int x; };\nstruct aqi_table/'
breaks name-type 's/} aq_value;/} value;/'
breaks name-type 's/(\*aq_callback)/(*callback)/'
breaks name-global 's/^static int aqi_dispatch.*/&\nint aqi_other(void) { return 1; }/'
breaks name-private 's/^static int aqi_dispatch/static int helper(void) { return 1; }\n&/'
breaks one-global 's/^static int aqi_dispatch.*/&\nstatic int aqi_second = 2;/'
breaks one-global 's/static const int fixed/static int fixed/'
breaks compiles 's/return twice;/return thrice;/'

# Breaks that other rules may notice too.
may_break() {
    sed "$2" "$tmp/good.h" >"$tmp/broken.h"
    if sh tools/check_header "$tmp/broken.h" >"$tmp/out" 2>&1 || ! grep -q "($1)\$" "$tmp/out"; then
        bad "$1: not noticed: $2"
    else
        ok
    fi
}
may_break top-comment '1s/^/\n/'
may_break implementation 's/ARROWQUANT_IMPLEMENTATION/ARROWQUANT_CODE/'

: >"$tmp/out"
if sh tools/check_header "$tmp/none.h" >/dev/null 2>&1; then bad "a missing file passes"; else ok; fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
