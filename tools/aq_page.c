/* aq_page.c - `aq quantize --report`: the report as one HTML page that needs nothing but
 * itself. It is XML too, so that tests can check its form. */
#include "aq.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* What keeps the page of a model with very many tensors within some MB. */
enum {
    MAX_FIGURES = 60,
    MAX_ROWS = 20000,
    MAX_OVERVIEW = 360,
    MAX_EXCEPTIONS = 1000,
    CARD_NAME_COLUMNS = 72
};

/* The page in the making. */
typedef struct page {
    const cli_args *args;
    const aq_job_report *report;
    size_t *worst; /* quantized tensors, the lowest SQNR first */
    size_t num_worst, num_figures;
    distribution **of; /* of each tensor; NULL = no figure */
    distribution total;
    int low, high; /* powers of ten around all relative errors */
    bool gated;    /* there was a bound on the cosine          */
    bool timed;    /* there are time groups                    */
    buffer out;
} page;

/*==========================================================================
 * MARK: - Figures of a tensor
 *========================================================================*/

static double rms_weight(const aq_metrics *of) {
    return sqrt(of->sum_aa / (double)of->count);
}

/* Root mean square and largest error over the root mean square of the weights. */
static double relative_rms(const aq_metrics *of) {
    return of->sum_aa > 0 ? sqrt(of->sum_dd / of->sum_aa) : 0;
}

static double relative_largest(const aq_metrics *of) {
    double rms = rms_weight(of);
    return rms > 0 ? of->max_abs_error / rms : 0;
}

static const aq_tensor_report *tensor_at(const page *of, size_t index) {
    return &of->report->tensors[index];
}

static const aq_tensor_report *sort_by; /* qsort has no argument of its own */

static int compare_quality(const void *a, const void *b) {
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    double x = sort_by[i].metrics.sqnr_db, y = sort_by[j].metrics.sqnr_db;
    if (x != y) return x < y ? -1 : 1;
    return i < j ? -1 : 1;
}

static void find_worst(page *of) {
    const aq_job_report *report = of->report;
    size_t i;
    of->worst = (size_t *)cli_resize(NULL, report->num_tensors + 1, sizeof *of->worst);
    for (i = 0; i < report->num_tensors; i++) {
        if (report->tensors[i].metrics.count != 0) of->worst[of->num_worst++] = i;
    }
    sort_by = report->tensors;
    qsort(of->worst, of->num_worst, sizeof *of->worst, compare_quality);
    of->num_figures = of->num_worst < MAX_FIGURES ? of->num_worst : MAX_FIGURES;
}

/* Decades that hold all relative errors that are not 0. */
static void find_decades(page *of) {
    double least = 1, greatest = 0.01;
    size_t i;
    for (i = 0; i < of->num_worst; i++) {
        const aq_metrics *metrics = &tensor_at(of, of->worst[i])->metrics;
        double rms = relative_rms(metrics), largest = relative_largest(metrics);
        if (rms > 0) least = fmin(least, rms);
        greatest = fmax(greatest, largest);
    }
    of->low = (int)floor(log10(fmax(least, 1e-12)));
    of->high = (int)ceil(log10(fmin(greatest, 1e12)));
    if (of->high <= of->low) of->high = of->low + 1;
}

/* Where a relative error stands between the decades, from 0 to 1. */
static double place(const page *of, double error) {
    double at = (log10(error) - of->low) / (of->high - of->low);
    return fmin(fmax(at, 0), 1);
}

/* "0.1 %" for the third power of ten below 1. */
static const char *decade_label(char out[TEXT_ROOM], int decade) {
    snprintf(out, TEXT_ROOM, "%.15g %%", pow(10, decade + 2));
    return out;
}

/*==========================================================================
 * MARK: - Head and totals
 *========================================================================*/

static void put_head(page *of) {
    buffer *out = &of->out;
    char when[32] = "";
    time_t now = time(NULL);
    struct tm parts;
    if (gmtime_r(&now, &parts) != NULL)
        strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &parts);
    buffer_print(
        out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src "
             "'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
             "img-src data:\"/>\n"
             "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
             "<link rel=\"icon\" href=\"data:,\"/>\n<title>");
    page_text(out, of->args->files[1]);
    buffer_print(out, ": quantization report</title>\n<style>\n");
    page_style(out);
    buffer_print(out, "</style>\n</head>\n<body>\n<main>\n<h1><bdi>");
    page_text(out, of->args->files[1]);
    buffer_print(out, "</bdi></h1>\n<p>Quantized from <code>");
    page_text(out, of->args->files[0]);
    buffer_print(out, "</code> by aq %s, %s.</p>\n", aq_version(), when);
}

static void put_tile(buffer *out, const char *label, const char *value,
                     const char *note) {
    buffer_print(out,
                 "<div class=\"card\"><span>%s</span><b>%s</b><span>%s</span></div>\n",
                 label, value, note);
}

static void put_size_tiles(buffer *out, const aq_job_report *report) {
    char text[TEXT_ROOM], in[TEXT_ROOM], note[128], value[128];
    double part = 100 * (double)report->bytes_out / (double)report->bytes_in;
    snprintf(value, sizeof value, "%s", text_bytes(text, report->bytes_out));
    snprintf(note, sizeof note, "%.1f %% of %s", report->bytes_in != 0 ? part : 100,
             text_bytes(in, report->bytes_in));
    put_tile(out, "Size of the tensors", value, note);
    snprintf(note, sizeof note, "from %s",
             text_measure(
                 in, tensor_bits_per_weight(report->bytes_in, report->num_params), 2));
    put_tile(out, "Bits per weight",
             text_measure(
                 text, tensor_bits_per_weight(report->bytes_out, report->num_params), 2),
             note);
    snprintf(value, sizeof value, "%zu of %zu", report->num_quantized,
             report->num_tensors);
    snprintf(note, sizeof note, "%zu kept as they came",
             report->num_tensors - report->num_quantized);
    put_tile(out, "Tensors quantized", value, note);
}

static void put_tiles(page *of) {
    const aq_job_report *report = of->report;
    buffer *out = &of->out;
    char text[TEXT_ROOM], note[128];
    buffer_print(out, "<div class=\"tiles\">\n");
    put_size_tiles(out, report);
    if (report->total.count != 0) {
        snprintf(note, sizeof note, "RMS error %.3g %% of the weights",
                 100 * relative_rms(&report->total));
        put_tile(out, "Signal to noise, dB", text_measure(text, report->total.sqnr_db, 2),
                 note);
        snprintf(note, sizeof note, "largest error %.4g", report->total.max_abs_error);
        put_tile(out, "Cosine", text_measure(text, report->total.cosine, 6), note);
    }
    note[0] = '\0';
    if (job_has_rate(report))
        snprintf(note, sizeof note, "%s of input",
                 text_rate(text, (double)report->bytes_in / report->seconds));
    if (report->num_resumed != 0)
        snprintf(note, sizeof note, "%zu of %zu tensors were done", report->num_resumed,
                 report->num_tensors);
    text_measure(text, report->seconds, 2);
    strncat(text, " s", sizeof text - strlen(text) - 1);
    put_tile(out, "Time", text, note);
    buffer_print(out, "</div>\n");
}

/*==========================================================================
 * MARK: - Bit widths
 *========================================================================*/

typedef struct width_sum {
    size_t tensors;
    uint64_t params, bytes_in, bytes_out;
} width_sum;

enum { NUM_WIDTHS = 4 };
static const uint32_t widths[NUM_WIDTHS] = {2, 4, 8, 0};

static void sum_widths(const page *of, width_sum *sums) {
    size_t i, k;
    memset(sums, 0, NUM_WIDTHS * sizeof *sums);
    for (i = 0; i < of->report->num_tensors; i++) {
        const aq_tensor_report *line = tensor_at(of, i);
        for (k = 0; k + 1 < NUM_WIDTHS && widths[k] != line->tensor.layout.bits; k++) {
        }
        sums[k].tensors++;
        sums[k].params += line->tensor.num_params;
        sums[k].bytes_in += line->bytes_in;
        sums[k].bytes_out += line->bytes_out;
    }
}

static void put_width_row(buffer *out, uint32_t bits, const width_sum *sum,
                          const aq_job_report *report) {
    char count[TEXT_ROOM], in[TEXT_ROOM], written[TEXT_ROOM], bpw[TEXT_ROOM];
    double all = report->num_params != 0 ? (double)report->num_params : 1;
    buffer_print(out, "<tr><td class=\"l\"><i class=\"key b%" PRIu32 "\"></i>", bits);
    if (bits != 0) {
        buffer_print(out, "%" PRIu32 " bits", bits);
    } else {
        buffer_print(out, "kept");
    }
    buffer_print(
        out,
        "</td><td>%zu</td><td>%s</td><td>%.1f %%</td><td>%s</td><td>%s</td>"
        "<td>%s</td></tr>\n",
        sum->tensors, text_count(count, sum->params), 100 * (double)sum->params / all,
        text_bytes(in, sum->bytes_in), text_bytes(written, sum->bytes_out),
        text_measure(bpw, tensor_bits_per_weight(sum->bytes_out, sum->params), 2));
}

static void put_widths(page *of) {
    buffer *out = &of->out;
    width_sum sums[NUM_WIDTHS];
    size_t k;
    sum_widths(of, sums);
    buffer_print(out, "<h2>Bit widths</h2>\n<p>Share of the weights at each width.</p>\n"
                      "<div class=\"card\">\n<div class=\"stack\">");
    for (k = 0; k < NUM_WIDTHS; k++) {
        if (sums[k].params != 0)
            buffer_print(out, "<i class=\"b%" PRIu32 "\" style=\"flex:%" PRIu64 "\"></i>",
                         widths[k], sums[k].params);
    }
    buffer_print(out, "</div>\n<div class=\"scroll\"><table id=\"widths\">\n<thead><tr>"
                      "<th class=\"l\">width</th><th>tensors</th><th>weights</th>"
                      "<th>share</th><th>bytes before</th><th>bytes now</th>"
                      "<th>bits per weight</th></tr></thead>\n<tbody>\n");
    for (k = 0; k < NUM_WIDTHS; k++) {
        if (sums[k].tensors != 0) put_width_row(out, widths[k], &sums[k], of->report);
    }
    buffer_print(out, "</tbody></table></div>\n</div>\n");
}

/*==========================================================================
 * MARK: - Errors in the order of the model
 *========================================================================*/

enum { OVER_WIDTH = 1080, OVER_HEIGHT = 230, OVER_LEFT = 56, OVER_BOTTOM = 210 };

static void put_over_grid(page *of) {
    char label[TEXT_ROOM];
    int decade;
    for (decade = of->low; decade <= of->high; decade++) {
        double y = OVER_BOTTOM -
                   (OVER_BOTTOM - 10) * (double)(decade - of->low) / (of->high - of->low);
        buffer_print(&of->out,
                     "<path class=\"grid\" d=\"M%d %.1fH%d\"/>"
                     "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                     OVER_LEFT, y, OVER_WIDTH, OVER_LEFT - 8, y + 4,
                     decade_label(label, decade));
    }
}

static void put_over_mark(page *of, const aq_tensor_report *line, double x) {
    buffer *out = &of->out;
    double rms = relative_rms(&line->metrics), largest = relative_largest(&line->metrics);
    double height = OVER_BOTTOM - 10, low, high;
    if (!(rms > 0)) return;
    low = OVER_BOTTOM - height * place(of, rms);
    high = OVER_BOTTOM - height * place(of, largest);
    buffer_print(out, "<g class=\"c%" PRIu32 "\"><title>", line->tensor.layout.bits);
    page_text(out, line->name);
    buffer_print(out,
                 ": RMS %.3g %%, largest %.3g %%</title>"
                 "<path d=\"M%.1f %.1fV%.1fm-2.5 0h5\" fill=\"none\" "
                 "stroke=\"currentColor\" stroke-opacity=\".55\"/>"
                 "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"currentColor\"/></g>\n",
                 100 * rms, 100 * largest, x, low, high, x, low);
}

/* With more tensors than fit side by side, the worst of each so many. */
static void put_overview(page *of) {
    buffer *out = &of->out;
    size_t n = of->num_worst, marks = n < MAX_OVERVIEW ? n : MAX_OVERVIEW, i, at = 0;
    const aq_tensor_report *shown = NULL;
    double step;
    if (n == 0) return;
    step = (double)(OVER_WIDTH - OVER_LEFT) / (double)marks;
    buffer_print(out,
                 "<h2>Error of each tensor</h2>\n<p>A dot is the root mean square of "
                 "a tensor's error, the line above it reaches its largest error, "
                 "both as a share of the root mean square of its weights. In the "
                 "order of names");
    if (marks < n)
        buffer_print(out, "; each is the worst of about %zu neighbours",
                     (n + marks / 2) / marks);
    buffer_print(
        out,
        ".</p>\n<div class=\"card scroll\"><svg class=\"over\" viewBox=\"0 0 %d %d\" "
        "role=\"img\" aria-label=\"Error of each tensor\">\n",
        OVER_WIDTH, OVER_HEIGHT);
    put_over_grid(of);
    for (i = 0; i < of->report->num_tensors; i++) {
        const aq_tensor_report *line = tensor_at(of, i);
        size_t mark = at * marks / n;
        if (line->metrics.count == 0) continue;
        if (shown == NULL || line->metrics.sqnr_db < shown->metrics.sqnr_db) shown = line;
        if (++at * marks / n == mark) continue;
        put_over_mark(of, shown, OVER_LEFT + step * ((double)mark + 0.5));
        shown = NULL;
    }
    buffer_print(out, "</svg></div>\n");
}

/*==========================================================================
 * MARK: - The table
 *========================================================================*/

static void put_bar(page *of, const aq_tensor_report *line) {
    buffer *out = &of->out;
    double rms = relative_rms(&line->metrics), low, high;
    if (line->metrics.count == 0) {
        buffer_print(out, "<td class=\"bar\" data-v=\"\"></td>");
        return;
    }
    buffer_print(out,
                 "<td class=\"bar c%" PRIu32 "\" data-v=\"%.6g\">"
                 "<div style=\"background-size:%.4f%% 100%%\">",
                 line->tensor.layout.bits, 100 * rms, 100.0 / (of->high - of->low));
    if (rms > 0) {
        low = 100 * place(of, rms);
        high = 100 * place(of, relative_largest(&line->metrics));
        buffer_print(out,
                     "<i style=\"left:%.1f%%;width:%.1f%%\"></i><u style=\"left:%.1f%%\">"
                     "</u><s style=\"left:%.1f%%\"></s>",
                     low, fmax(high - low, 0), low, high);
    }
    buffer_print(out, "</div></td>");
}

/* Text of a cell that comes from a table for the terminal. */
static void put_cells(buffer *out, const aq_tensor *tensor) {
    static const char *const classes[] = {" class=\"l\"", " class=\"l\"", "", ""};
    table cells;
    size_t i;
    table_init(&cells, TENSOR_HEADINGS, TENSOR_ALIGN);
    tensor_cells(&cells, tensor);
    for (i = 0; i < cells.columns; i++) {
        buffer_print(out, "<td%s", classes[i]);
        if (i == 0) buffer_print(out, " data-v=\"%" PRIu64 "\"", tensor->num_params);
        if (i == 2) buffer_print(out, " data-v=\"%" PRIu32 "\"", tensor->layout.bits);
        buffer_print(out, ">");
        page_text(out, cells.cells[cells.columns + i]);
        buffer_print(out, "</td>");
    }
    table_free(&cells);
}

/* Time groups, and what codes do to inputs and outputs. */
static void put_time_cells(buffer *out, const aq_tensor_report *line) {
    const aq_time_aware *groups = diffusion_groups(&line->tensor);
    const aq_time_report *time = line->time;
    char input[TEXT_ROOM], output[TEXT_ROOM];
    if (groups != NULL) {
        buffer_print(out, "<td>%zu</td>", groups->num_groups);
    } else {
        buffer_print(out, "<td>-</td>");
    }
    buffer_print(
        out, "<td>%s</td><td>%s</td>",
        text_measure(input, time != NULL ? time->input_sqnr_db : (double)NAN, 1),
        text_measure(output, time != NULL ? time->output_sqnr_db : (double)NAN, 1));
}

static void put_row(page *of, const aq_tensor_report *line) {
    buffer *out = &of->out;
    const aq_metrics *metrics = &line->metrics;
    bool measured = metrics->count != 0;
    char bytes[TEXT_ROOM], bpw[TEXT_ROOM], cosine[TEXT_ROOM], sqnr[TEXT_ROOM];
    buffer_print(out, "<tr><th class=\"l n\" scope=\"row\">");
    page_text(out, line->name);
    buffer_print(out, "</th>");
    put_cells(out, &line->tensor);
    if (of->timed) put_time_cells(out, line);
    buffer_print(
        out, "<td data-v=\"%" PRIu64 "\">%s</td><td>%s</td><td>%s</td><td>%s</td>",
        line->bytes_out, text_bytes(bytes, line->bytes_out),
        text_measure(bpw,
                     tensor_bits_per_weight(line->bytes_out, line->tensor.num_params), 2),
        text_measure(cosine, measured ? metrics->cosine : (double)NAN, 5),
        text_measure(sqnr, measured ? metrics->sqnr_db : (double)NAN, 1));
    if (measured) {
        buffer_print(out, "<td>%.3g</td>", metrics->max_abs_error);
    } else {
        buffer_print(out, "<td>-</td>");
    }
    put_bar(of, line);
    buffer_print(out, "</tr>\n");
}

static void put_table_head(page *of) {
    static const char *const headings[] = {"name",  "shape", "dtype",  "bits", "group",
                                           "bytes", "bpw",   "cosine", "SQNR", "largest"};
    buffer *out = &of->out;
    char label[TEXT_ROOM];
    size_t i;
    int decade;
    buffer_print(out,
                 "<div class=\"card scroll tall\"><table id=\"tensors\">\n<thead><tr>");
    for (i = 0; i < sizeof headings / sizeof headings[0]; i++) {
        if (i == 5 && of->timed)
            buffer_print(out, "<th scope=\"col\"><button type=\"button\">time groups"
                              "</button></th><th scope=\"col\"><button type=\"button\">"
                              "input SQNR</button></th><th scope=\"col\"><button "
                              "type=\"button\">output SQNR</button></th>");
        buffer_print(out, "<th%s scope=\"col\"><button type=\"button\">%s</button></th>",
                     i < 3 ? " class=\"l\"" : "", headings[i]);
    }
    buffer_print(out, "<th class=\"bar\" scope=\"col\"><button type=\"button\">error of "
                      "the weights</button><div class=\"axis\">");
    for (decade = of->low; decade <= of->high; decade++) {
        if ((of->high - decade) % ((of->high - of->low) / 4 + 1) == 0)
            buffer_print(out, "<span style=\"left:%.1f%%\">%s</span>",
                         100.0 * (decade - of->low) / (of->high - of->low),
                         decade_label(label, decade));
    }
    buffer_print(out, "</div></th></tr></thead>\n<tbody>\n");
}

/* All tensors in the order of names; of too many, those that lost most. */
static void put_table(page *of) {
    buffer *out = &of->out;
    size_t n = of->report->num_tensors, i;
    char all[TEXT_ROOM], rows[TEXT_ROOM];
    buffer_print(out,
                 "<h2>Tensors</h2>\n<p>Bytes with scales and zero points; SQNR in dB; "
                 "the largest error as it is; on the right root mean square and "
                 "largest error as above.");
    if (of->timed)
        buffer_print(out, " Of calibrated tensors also the SQNR of their inputs in codes "
                          "and of their outputs, the products of both.");
    if (n > MAX_ROWS)
        buffer_print(out, " Of %s tensors the first %s are shown; aq inspect has all.",
                     text_count(all, n), text_count(rows, MAX_ROWS));
    buffer_print(out, " Click on a heading to sort.</p>\n"
                      "<input id=\"find\" type=\"search\" placeholder=\"Find names\" "
                      "aria-label=\"Find names\"/>\n");
    put_table_head(of);
    for (i = 0; i < n && i < MAX_ROWS; i++)
        put_row(of, tensor_at(of, i));
    buffer_print(out, "</tbody></table></div>\n");
}

/*==========================================================================
 * MARK: - What did not come out as planned
 *========================================================================*/

/* Tensors that could not be quantized, or were done with more bits than at first. */
static void put_exceptions(page *of) {
    buffer *out = &of->out, text = {NULL, 0, 0};
    size_t i, shown = 0;
    for (i = 0; i < of->report->num_tensors && shown < MAX_EXCEPTIONS; i++) {
        const aq_tensor_report *line = tensor_at(of, i);
        bool again = of->gated && (line->num_attempts > 1 ||
                                   (line->num_attempts == 1 && line->metrics.count == 0));
        if (line->status == AQ_OK && !again) continue;
        if (shown++ == 0)
            buffer_print(
                out,
                "<h2>Exceptions</h2>\n<p>Tensors that were below the bound on their "
                "cosine, with what it was at each width, or could not be quantized; at "
                "most "
                "%d are shown.</p>\n<div class=\"card scroll tall\"><table "
                "id=\"exceptions\">\n<tbody>\n",
                MAX_EXCEPTIONS);
        buffer_print(out, "<tr><th class=\"l n\" scope=\"row\">");
        page_text(out, line->name);
        buffer_print(out, "</th><td class=\"l n\">");
        text.size = 0;
        if (line->status != AQ_OK) {
            buffer_print(&text, "kept: %s", line->error != NULL ? line->error : "");
        } else {
            job_put_attempts(&text, line);
        }
        page_text(out, text.data + (line->status != AQ_OK ? 0 : 2));
        buffer_print(out, "</td></tr>\n");
    }
    if (shown != 0) buffer_print(out, "</tbody></table></div>\n");
    buffer_free(&text);
}

/*==========================================================================
 * MARK: - Histograms
 *========================================================================*/

static void put_totals(page *of) {
    buffer *out = &of->out;
    char counted[TEXT_ROOM], all[TEXT_ROOM];
    if (of->total.counted == 0) return;
    buffer_print(
        out,
        "<h2>Distribution</h2>\n<p>All quantized tensors together, each in units "
        "of its own root mean square. %s of %s weights are counted: of "
        "large tensors some rows, of tensors without error none. The outermost bins hold "
        "what lies beyond them.</p>\n<div class=\"two\">\n",
        text_count(counted, of->total.counted), text_count(all, of->report->total.count));
    buffer_print(out, "<div class=\"card\"><h3>Weights</h3>");
    page_histogram(out, &of->total.weights, 'w', "weights / RMS of the tensor");
    buffer_print(out, "</div>\n<div class=\"card\"><h3>Errors</h3>");
    page_histogram(out, &of->total.error, 'e', "error / RMS error of the tensor");
    buffer_print(out, "</div>\n</div>\n");
}

static void put_card(page *of, const aq_tensor_report *line,
                     const distribution *figures) {
    buffer *out = &of->out, visible = {NULL, 0, 0}, name = {NULL, 0, 0};
    char sqnr[TEXT_ROOM], part[TEXT_ROOM] = "";
    buffer_visible(&visible, line->name, strlen(line->name));
    buffer_elided(&name, visible.data, CARD_NAME_COLUMNS);
    buffer_print(out, "<div class=\"card\"><h3>");
    page_text(out, name.data);
    if (figures->counted < line->metrics.count)
        snprintf(part, sizeof part, " &#183; %.2g %% counted",
                 100 * (double)figures->counted / (double)line->metrics.count);
    buffer_print(
        out, "</h3><span class=\"soft\">%" PRIu32 " bits &#183; SQNR %s dB%s</span>",
        line->tensor.layout.bits, text_measure(sqnr, line->metrics.sqnr_db, 1), part);
    if (figures->counted != 0) {
        char caption[128];
        buffer_print(out, "<div class=\"pair\">");
        snprintf(caption, sizeof caption, "weights, from %.3g to %.3g", figures->least,
                 figures->greatest);
        page_histogram(out, &figures->weights, 'w', caption);
        snprintf(caption, sizeof caption, "error, largest %.3g",
                 line->metrics.max_abs_error);
        page_histogram(out, &figures->error, 'e', caption);
        buffer_print(out, "</div>");
    }
    buffer_print(out, "</div>\n");
    buffer_free(&visible);
    buffer_free(&name);
}

static void put_figures(page *of) {
    buffer *out = &of->out;
    size_t i, left_out = of->num_worst - of->num_figures;
    if (of->num_figures == 0) return;
    buffer_print(out, "<h2>Weights and errors of tensors</h2>\n<p>The lowest SQNR first. "
                      "Bins reach to 5 root mean squares; the outermost hold what lies "
                      "beyond.");
    if (left_out != 0) {
        buffer_print(out, " %zu tensor%s with less error %s left out: SQNR from ",
                     left_out, text_plural(left_out), left_out == 1 ? "is" : "are");
        buffer_print(out, "%.1f dB, first ",
                     tensor_at(of, of->worst[of->num_figures])->metrics.sqnr_db);
        buffer_print(out, "<code>");
        page_text(out, tensor_at(of, of->worst[of->num_figures])->name);
        buffer_print(out, "</code>.");
    }
    buffer_print(out, "</p>\n<div class=\"hists\" id=\"figures\">\n");
    for (i = 0; i < of->num_figures; i++)
        put_card(of, tensor_at(of, of->worst[i]), of->of[of->worst[i]]);
    buffer_print(out, "</div>\n");
}

/*==========================================================================
 * MARK: - The job
 *========================================================================*/

static void put_fact(buffer *out, const char *what, const char *value) {
    buffer_print(out, "<dt>%s</dt><dd>%s</dd>\n", what, value);
}

static void put_pool(buffer *out, const aq_job_report *report) {
    const aq_pool_stats *pool = &report->pool;
    char text[TEXT_ROOM];
    put_fact(out, "Input file", text_bytes(text, report->file_bytes_in));
    put_fact(out, "Output file", text_bytes(text, report->file_bytes_out));
    put_fact(out, "Buffers asked of the pool", text_count(text, pool->acquires));
    put_fact(out, "Of these from kept ones", text_count(text, pool->hits));
    snprintf(text, sizeof text, "%.1f %%", 100 * pool->hit_rate);
    put_fact(out, "Hit rate", text);
    put_fact(out, "Allocations", text_count(text, pool->allocations));
    put_fact(out, "Bytes not allocated anew", text_bytes(text, pool->bytes_saved));
    put_fact(out, "Most memory of the pool", text_bytes(text, pool->peak_bytes));
}

/* The lines of the configuration that say something. */
static void put_settings(page *of) {
    buffer text = {NULL, 0, 0};
    buffer *out = &of->out;
    char *line, *next;
    size_t shown = 0;
    buffer_print(out, "<pre>");
    config_put(&text, of->args, true);
    for (line = text.data; *line != '\0'; line = next) {
        next = line + strcspn(line, "\n");
        if (*next != '\0') *next++ = '\0';
        if (*line == '#' || *line == '\0') continue;
        page_text(out, line);
        buffer_print(out, "\n");
        shown++;
    }
    buffer_print(out, "%s</pre>",
                 shown != 0 ? "# all others: defaults" : "# all settings: defaults");
    buffer_free(&text);
}

static void put_job(page *of) {
    buffer *out = &of->out;
    buffer_print(out, "<h2>Job</h2>\n<div class=\"two\">\n<div class=\"card\"><dl>\n");
    put_pool(out, of->report);
    buffer_print(out, "</dl></div>\n<div class=\"card\">");
    put_settings(of);
    buffer_print(out, "</div>\n</div>\n");
}

/*==========================================================================
 * MARK: - The page
 *========================================================================*/

static void put_page(page *of) {
    put_head(of);
    put_tiles(of);
    put_widths(of);
    put_overview(of);
    put_exceptions(of);
    put_totals(of);
    put_table(of);
    put_figures(of);
    put_job(of);
    buffer_print(&of->out, "</main>\n<script>\n");
    page_script(&of->out);
    buffer_print(&of->out, "</script>\n</body>\n</html>\n");
}

/* A file that is there must be a page: anything else is not ours to replace. */
static bool check_replaced(const char *path, aq_error *err) {
    static const char start[] = "<!DOCTYPE html>";
    char found[sizeof start] = "";
    FILE *file = fopen(path, "rb");
    size_t n;
    if (file == NULL) {
        if (errno == ENOENT) return true;
        cli_set_error(err, AQ_E_IO, "cannot write: %s", strerror(errno));
        return false;
    }
    n = fread(found, 1, sizeof start - 1, file);
    fclose(file);
    if (n == 0 || memcmp(found, start, sizeof start - 1) == 0) return true;
    cli_set_error(err, AQ_E_ARG,
                  "cannot write: there is a file that is no HTML page; choose another "
                  "name");
    return false;
}

int page_check(const cli_args *args, const char *path) {
    static const buffer nothing = {NULL, 0, 0};
    aq_error err;
    if (file_same(path, args->files[1]))
        return job_error(args, path, AQ_E_ARG,
                         "cannot write: it is the output of the job; choose another "
                         "name");
    if (file_save(path, &nothing, &err) && check_replaced(path, &err)) return CLI_GOOD;
    return job_refuse(args, path, &err);
}

int page_write(const cli_args *args, const aq_job_options *options,
               const aq_job_report *report, const char *path) {
    page of;
    distribution *figures;
    aq_error err;
    size_t i;
    int code;
    memset(&of, 0, sizeof of);
    of.args = args;
    of.report = report;
    of.gated = options->min_cosine > 0;
    for (i = 0; i < report->num_tensors && !of.timed; i++)
        of.timed = diffusion_groups(&report->tensors[i].tensor) != NULL;
    find_worst(&of);
    find_decades(&of);
    of.of = (distribution **)cli_resize(NULL, report->num_tensors + 1, sizeof *of.of);
    memset(of.of, 0, (report->num_tensors + 1) * sizeof *of.of);
    figures = (distribution *)cli_resize(NULL, of.num_figures + 1, sizeof *figures);
    memset(figures, 0, (of.num_figures + 1) * sizeof *figures);
    for (i = 0; i < of.num_figures; i++)
        of.of[of.worst[i]] = &figures[i];
    code = distributions_read(args, report, of.of, &of.total);
    if (code == CLI_GOOD) {
        put_page(&of);
        if (!check_replaced(path, &err) || !file_save(path, &of.out, &err))
            code = cli_failure(path, &err);
    }
    free(of.worst);
    free(of.of);
    free(figures);
    buffer_free(&of.out);
    return code;
}
