/* aq_term.c - what depends on a terminal: colour, the width of tables, progress. */
#include "aq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* A terminal on which escape sequences work. */
static bool is_terminal(FILE *stream) {
    const char *term = getenv("TERM");
    return isatty(fileno(stream)) && term != NULL && strcmp(term, "dumb") != 0;
}

const char *term_code(FILE *stream, term_style style) {
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[31m", "\033[32m"};
    const char *no_color = getenv("NO_COLOR");
    if (!is_terminal(stream) || (no_color != NULL && no_color[0] != '\0')) return "";
    return codes[style];
}

static size_t terminal_columns(FILE *stream) {
    struct winsize size;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

/*==========================================================================
 * MARK: - Tables
 *========================================================================*/

enum { MIN_ELIDED_COLUMNS = 12, MAX_TABLE_COLUMNS = 16, MAX_WIDTH = 200 };

static void add_cell(table *rows, const char *visible, size_t size) {
    char *cell = (char *)cli_resize(NULL, size + 1, 1);
    memcpy(cell, visible, size);
    cell[size] = '\0';
    if ((rows->num_cells & (rows->num_cells - 1)) == 0) { /* full: room is a power of 2 */
        size_t room = rows->num_cells == 0 ? 1 : 2 * rows->num_cells;
        rows->cells = (char **)cli_resize(rows->cells, room, sizeof *rows->cells);
    }
    rows->cells[rows->num_cells++] = cell;
}

void table_init(table *out, const char *headings, const char *align) {
    memset(out, 0, sizeof *out);
    out->align = align;
    out->columns = strlen(align);
    for (;;) {
        size_t length = strcspn(headings, "|");
        add_cell(out, headings, length);
        if (headings[length] == '\0') break;
        headings += length + 1;
    }
}

void table_cell(table *rows, const char *visible) {
    add_cell(rows, visible, strlen(visible));
}

void table_name(table *rows, const char *name) {
    buffer visible = {NULL, 0, 0};
    buffer_visible(&visible, name, strlen(name));
    table_cell(rows, visible.data);
    buffer_free(&visible);
}

/* Widths of all columns and the gap between them, made to fit a terminal: first a smaller
 * gap, then a narrower first column. Elsewhere one long cell does not make all others wide:
 * it reaches beyond its column. */
static size_t fit_columns(const table *rows, size_t *widths) {
    const bool on_terminal = isatty(STDOUT_FILENO);
    size_t i, total = 0, gap = 2, available;
    memset(widths, 0, MAX_TABLE_COLUMNS * sizeof *widths);
    for (i = 0; i < rows->num_cells; i++) {
        size_t columns = text_columns(rows->cells[i]), column = i % rows->columns;
        if (columns > MAX_WIDTH && !on_terminal) columns = MAX_WIDTH;
        if (columns > widths[column]) widths[column] = columns;
    }
    if (!on_terminal) return gap;
    for (i = 0; i < rows->columns; i++)
        total += widths[i];
    available = terminal_columns(stdout);
    if (total + gap * (rows->columns - 1) <= available) return gap;
    gap = 1;
    total += rows->columns - 1;
    if (total > available) {
        size_t excess = total - available, first = widths[0];
        size_t least = first < MIN_ELIDED_COLUMNS ? first : MIN_ELIDED_COLUMNS;
        widths[0] = first > least + excess ? first - excess : least;
    }
    return gap;
}

void table_show(const table *rows, buffer *out) {
    size_t widths[MAX_TABLE_COLUMNS], gap = fit_columns(rows, widths), i;
    const bool elides = isatty(STDOUT_FILENO);
    for (i = 0; i < rows->num_cells; i++) {
        size_t column = i % rows->columns;
        bool last = column + 1 == rows->columns, right = rows->align[column] == 'r';
        const char *cell = rows->cells[i];
        size_t columns = text_columns(cell);
        int fill = columns < widths[column] ? (int)(widths[column] - columns) : 0;
        if (i == 0) buffer_print(out, "%s", term_code(stdout, TERM_BOLD));
        if (right) buffer_print(out, "%*s", fill, "");
        buffer_elided(out, cell, elides ? widths[column] : columns);
        if (!right && !last) buffer_print(out, "%*s", fill, "");
        if (!last) buffer_print(out, "%*s", (int)gap, "");
        if (last && i < rows->columns)
            buffer_print(out, "%s", term_code(stdout, TERM_PLAIN));
        if (last) buffer_put(out, "\n", 1);
    }
}

void table_free(table *rows) {
    size_t i;
    for (i = 0; i < rows->num_cells; i++)
        free(rows->cells[i]);
    free(rows->cells);
    memset(rows, 0, sizeof *rows);
}

/*==========================================================================
 * MARK: - Progress
 *========================================================================*/

static bool line_on_screen;

void term_clear_line(void) {
    if (line_on_screen) fputs("\r\033[K", stderr);
    line_on_screen = false;
}

static double now_seconds(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0;
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* AQ_PROGRESS_SECONDS, where it is a number: seconds between two lines. */
static double line_interval(void) {
    const char *text = getenv("AQ_PROGRESS_SECONDS");
    char *end;
    double seconds = text != NULL ? strtod(text, &end) : -1;
    if (text == NULL || end == text || *end != '\0' || !(seconds >= 0)) return 5;
    return seconds;
}

void progress_start(progress *line, const char *verb) {
    memset(line, 0, sizeof *line);
    line->verb = verb;
    line->terminal = is_terminal(stderr);
    line->interval = line->terminal ? 0.1 : 0;
    line->started = now_seconds();
    line->drawn = -INFINITY;
    line->told = -INFINITY;
}

void progress_start_job(progress *line, const char *verb, bool events) {
    progress_start(line, verb);
    line->events = events;
    if (line->terminal) return;
    line->interval = line_interval();
    line->drawn = line->started;
}

static void put_time_left(buffer *out, double seconds) {
    unsigned long left = seconds < 359999 ? (unsigned long)ceil(seconds) : 359999;
    if (left >= 3600) {
        buffer_print(out, "%lu:%02lu:%02lu left", left / 3600, left / 60 % 60, left % 60);
    } else {
        buffer_print(out, "%lu:%02lu left", left / 60, left % 60);
    }
}

/* Bytes per second of this run: what an earlier one had done does not count. 0 = unknown. */
static double rate_of(const progress *line, const aq_progress *at, double now) {
    if (at->bytes_done <= line->found || now <= line->since) return 0;
    return (double)(at->bytes_done - line->found) / (now - line->since);
}

/* "12.3 MiB of 27.4 MiB  1.24 GB/s  0:03 left" */
static void put_rate(buffer *out, const progress *line, const aq_progress *at,
                     double now) {
    char done_text[TEXT_ROOM], total_text[TEXT_ROOM], rate_text[TEXT_ROOM];
    double rate = rate_of(line, at, now);
    uint64_t done = at->bytes_done, total = at->bytes_total;
    buffer_print(out, "%s of %s", text_bytes(done_text, done),
                 text_bytes(total_text, total));
    if (!(rate > 0)) return;
    buffer_print(out, "  %s  ", text_rate(rate_text, rate));
    put_time_left(out, total > done ? (double)(total - done) / rate : 0);
}

static double part_done(const aq_progress *at) {
    if (at->bytes_total == 0) return 0;
    return fmin((double)at->bytes_done / (double)at->bytes_total, 1);
}

/* verb  45% [#########-----------] 12 of 79  12.3 MiB of ...  name */
static void draw_line(const progress *line, const aq_progress *at, double now) {
    static const char hashes[] = "####################",
                      dashes[] = "--------------------";
    buffer text = {NULL, 0, 0}, visible = {NULL, 0, 0};
    size_t width = terminal_columns(stderr) - 1, used;
    int bar = width < 100 ? 10 : 20, filled = (int)(part_done(at) * bar);
    buffer_print(&text, "%s %3d%% [%.*s%.*s] ", line->verb, (int)(part_done(at) * 100),
                 filled, hashes, bar - filled, dashes);
    if (at->tensors_total != 0)
        buffer_print(&text, "%zu of %zu  ", at->tensors_done, at->tensors_total);
    put_rate(&text, line, at, now);
    used = text_columns(text.data);
    if (used + 2 + MIN_ELIDED_COLUMNS <= width && at->name != NULL) {
        buffer_visible(&visible, at->name, strlen(at->name));
        buffer_print(&text, "  ");
        buffer_elided(&text, visible.data, width - used - 2);
    }
    fprintf(stderr, "\r%.*s\033[K", (int)(used <= width ? text.size : width), text.data);
    fflush(stderr);
    line_on_screen = true;
    buffer_free(&visible);
    buffer_free(&text);
}

static void print_line(const progress *line, const aq_progress *at, double now) {
    buffer text = {NULL, 0, 0};
    buffer_print(&text, "%s %d%%  %zu of %zu tensors  ", line->verb,
                 (int)(part_done(at) * 100), at->tensors_done, at->tensors_total);
    put_rate(&text, line, at, now);
    fprintf(stderr, "%s\n", text.data);
    buffer_free(&text);
}

/* At the start, when another tensor is done, at the end, and every half second. */
static void tell_progress(progress *line, const aq_progress *at, double now) {
    json event = {{NULL, 0, 0}, JSON_ONE_LINE, false};
    double rate = rate_of(line, at, now);
    if (at->tensors_done == line->told_tensors && now - line->told < 0.5) return;
    line->told = now;
    line->told_tensors = at->tensors_done;
    json_open(&event, NULL, '{');
    json_string(&event, "event", "progress");
    json_string(&event, "tensor", at->name);
    json_unsigned(&event, "tensors_done", at->tensors_done);
    json_unsigned(&event, "tensors_total", at->tensors_total);
    json_unsigned(&event, "bytes_done", at->bytes_done);
    json_unsigned(&event, "bytes_total", at->bytes_total);
    json_number(&event, "seconds", now - line->started);
    json_measure(&event, "bytes_per_second", rate > 0 ? rate : (double)NAN);
    json_close(&event, '}');
    json_show(&event);
    fflush(stdout);
}

void progress_step_job(progress *line, const aq_progress *at) {
    double now = now_seconds();
    if (at->bytes_total != line->total) {
        line->since = line->total == 0 && at->bytes_done == 0 ? line->started : now;
        line->total = at->bytes_total;
        line->found = at->bytes_done;
    }
    if (line->events) tell_progress(line, at, now);
    if (line->interval <= 0 || now - line->drawn < line->interval) return;
    line->drawn = now;
    if (line->terminal) {
        draw_line(line, at, now);
    } else {
        print_line(line, at, now);
    }
}

void progress_step(progress *line, const char *name, uint64_t done, uint64_t total) {
    aq_progress at;
    memset(&at, 0, sizeof at);
    at.name = name;
    at.bytes_done = done;
    at.bytes_total = total;
    progress_step_job(line, &at);
}

void progress_end(progress *line) {
    term_clear_line();
    line->interval = 0;
}
