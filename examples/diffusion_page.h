/* diffusion_page.h - how far samples are from fresh data, and the page of
 * tiny_diffusion.c: one HTML file with everything in it. */
#ifndef DIFFUSION_PAGE_H
#define DIFFUSION_PAGE_H

#include <stdlib.h>
#include <string.h>

#include "diffusion.h"
#include "diffusion_ranges.h"

/* --- Distances ------------------------------------------------------------------- */

/* Mean distance between a point of x and one of y; in one set, between two different
 * ones. */
static inline double mean_distance(const float *x, const float *y, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (size_t j = 0; j < count; j++) {
            const float a = x[2 * i] - y[2 * j], b = x[2 * i + 1] - y[2 * j + 1];
            sum += sqrtf(a * a + b * b);
        }
        total += (double)sum;
    }
    return total / ((double)count * (double)(x == y ? count - 1 : count));
}

/* Energy distance: 0 on average between two draws of one distribution. */
static inline double energy_distance(const float *x, const float *y, size_t count) {
    return 2 * mean_distance(x, y, count) - mean_distance(x, x, count) -
           mean_distance(y, y, count);
}

static inline int compare_floats(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Sliced Wasserstein distance: how far, on average over 16 directions, points must move
 * along the direction until both sets are one. */
static inline double sliced_distance(const float *x, const float *y, size_t count) {
    enum { DIRECTIONS = 16 };
    float *lines = (float *)malloc(2 * count * sizeof *lines);
    double total = 0;
    if (lines == NULL) abort();
    for (int d = 0; d < DIRECTIONS; d++) {
        const float turns = 0.5f * (float)d / DIRECTIONS;
        const float dx = diffusion_cos(turns), dy = diffusion_sin(turns);
        for (size_t i = 0; i < count; i++) {
            lines[i] = x[2 * i] * dx + x[2 * i + 1] * dy;
            lines[count + i] = y[2 * i] * dx + y[2 * i + 1] * dy;
        }
        qsort(lines, count, sizeof *lines, compare_floats);
        qsort(lines + count, count, sizeof *lines, compare_floats);
        for (size_t i = 0; i < count; i++)
            total += fabs((double)lines[i] - (double)lines[count + i]);
    }
    free(lines);
    return total / (double)count / DIRECTIONS;
}

/* Mean distance between points that were made from the same noise. */
static inline double shift_distance(const float *x, const float *y, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) {
        const float a = x[2 * i] - y[2 * i], b = x[2 * i + 1] - y[2 * i + 1];
        total += (double)sqrtf(a * a + b * b);
    }
    return total / (double)count;
}

/* Mean of one number a seed, and half the width of its 95 % confidence interval. */
typedef struct estimate {
    double mean, half;
} estimate;

static inline estimate estimate_of(const double *values, int count) {
    estimate e = {0, 0};
    double squares = 0, freedom = count - 1;
    for (int i = 0; i < count; i++)
        e.mean += values[i] / count;
    for (int i = 0; i < count; i++)
        squares += (values[i] - e.mean) * (values[i] - e.mean);
    if (count < 2) return e;
    /* Student's t, within 0.01 from 6 degrees of freedom on. */
    const double t = 1.96 + 2.37 / freedom + 2.82 / (freedom * freedom);
    e.half = t * sqrt(squares / freedom / count);
    return e;
}

/* --- Page ------------------------------------------------------------------------ */

enum { MAX_SEEDS = 64 };

/* Samples in one setting; bits 0 = float32. */
typedef struct setting {
    int weight_bits, activation_bits;
    grouping how;
    double sliced[MAX_SEEDS], energy[MAX_SEEDS], moved[MAX_SEEDS];
    double against_plain[MAX_SEEDS];
    estimate distance, energy_distance, shift, difference;
    uint64_t bytes; /* of the model file                */
    double rate;    /* points made in a second          */
    float *points;  /* of the first seed                */
} setting;

typedef struct page {
    const setting *fresh;    /* data against data */
    const setting *settings; /* the first is float32 */
    int num_settings, seeds;
    size_t count;         /* points of a seed */
    const ranges *layers; /* DIFFUSION_LAYERS */
} page;

static const char *const grouping_names[] = {"one range", "time groups, equal",
                                             "time groups"};

static inline const char *bits_name(int bits) {
    static const char *const names[] = {"float32", "",       "2 bits", "",      "4 bits",
                                        "",        "6 bits", "",       "8 bits"};
    return names[bits];
}

static inline const setting *page_find(const page *p, int weights, int activations,
                                       grouping how) {
    for (int i = 0; i < p->num_settings; i++) {
        const setting *s = &p->settings[i];
        if (s->weight_bits == weights && s->activation_bits == activations &&
            s->how == how)
            return s;
    }
    return NULL;
}

/* -1 and 1: the interval lies below (above) the other's; 0: they overlap. */
static inline int page_verdict(const setting *s, const setting *plain) {
    const estimate a = s->distance, b = plain->distance;
    if (a.mean + a.half < b.mean - b.half) return -1;
    return a.mean - a.half > b.mean + b.half;
}

/* A cloud of points in [-2.5, 2.5]. */
static inline void page_panel(FILE *out, const page *p, const setting *s,
                              const char *title, const char *kind) {
    fprintf(out,
            "<figure class=\"%s\"><svg viewBox=\"0 0 500 500\" role=\"img\" "
            "aria-label=\"%s\"><path d=\"",
            kind, title);
    for (size_t i = 0; i < p->count; i++) {
        const float x = range_clamp(s->points[2 * i], -2.5f, 2.5f);
        const float y = range_clamp(s->points[2 * i + 1], -2.5f, 2.5f);
        fprintf(out, "M%d %dh0", (int)(250.5f + 100 * x), (int)(250.5f - 100 * y));
    }
    fprintf(out,
            "\"/></svg><figcaption>%s<b>%.3f</b> <small>&#xb1; %.3f</small>"
            "</figcaption></figure>\n",
            title, s->distance.mean, s->distance.half);
}

/* Least and greatest activation along the steps, and what 4-bit codes reach: with one
 * range, and with one for each group. */
static inline void page_chart(FILE *out, const ranges *layer, int number) {
    code_range codes[2][DIFFUSION_STEPS];
    const double wide = 500.0 / DIFFUSION_STEPS;
    const double span = layer->greatest - layer->least, top = layer->greatest;
    char name[32];
    diffusion_layer_name(name, sizeof name, number);
    ranges_fit(layer, 4, GROUPS_PLAIN, codes[0]);
    ranges_fit(layer, 4, GROUPS_BEST, codes[1]);
    fprintf(out, "<figure class=\"chart\"><svg viewBox=\"0 0 500 300\" role=\"img\" "
                 "aria-label=\"ranges\" preserveAspectRatio=\"none\">");
    for (int step = 0; step < DIFFUSION_STEPS; step++) {
        double y = 300 * (top - layer->max[step]) / span;
        double high = 300 * (layer->max[step] - layer->min[step]) / span;
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                step * wide, y, wide, high);
    }
    for (int which = 0; which < 2; which++) {
        for (int end = 0; end < 2; end++) {
            fprintf(out, "<path class=\"%s\" d=\"", which == 0 ? "plain" : "time");
            for (int step = 0; step < DIFFUSION_STEPS; step++) {
                const code_range *c = &codes[which][step];
                double value = c->scale * (float)((end ? c->most : 0) - c->zero_point);
                fprintf(out, "%s%.1f %.1fH%.1f", step == 0 ? "M" : "L", step * wide,
                        300 * (top - value) / span, (step + 1) * wide);
            }
            fprintf(out, "\"/>");
        }
    }
    fprintf(out, "</svg><figcaption>%s</figcaption></figure>\n", name);
}

static inline void page_row(FILE *out, const page *p, const setting *s) {
    const setting *plain = page_find(p, s->weight_bits, s->activation_bits, GROUPS_PLAIN);
    const bool compared = s->activation_bits != 0 && s->how != GROUPS_PLAIN;
    fprintf(out, "<tr><td>%s</td><td>%s</td><td>%s</td>", bits_name(s->weight_bits),
            bits_name(s->activation_bits),
            s->activation_bits != 0 ? grouping_names[s->how] : "&#x2013;");
    fprintf(out, "<td>%.4f &#xb1; %.4f</td><td>%.4f &#xb1; %.4f</td>", s->distance.mean,
            s->distance.half, s->energy_distance.mean, s->energy_distance.half);
    fprintf(out, "<td>%.4f &#xb1; %.4f</td>", s->shift.mean, s->shift.half);
    if (compared) {
        static const char *const words[] = {"better", "no clear difference", "worse"};
        const int verdict = page_verdict(s, plain);
        fprintf(out, "<td>%+.4f &#xb1; %.4f</td><td class=\"v%d\">%s</td>",
                s->difference.mean, s->difference.half, verdict + 1, words[verdict + 1]);
    } else
        fprintf(out, "<td></td><td></td>");
    fprintf(out, "<td>%.0f</td><td>%.0f</td></tr>\n", (double)s->bytes / 1024, s->rate);
}

static const char page_head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
    "<title>A diffusion model in few bits</title>\n<style>\n"
    ":root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --line: #ccd;\n"
    "  --dots: #2456a6; --plain: #c2410c; --time: #15803d; --paper: #fff; }\n"
    "@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --dim: #9aa;\n"
    "  --line: #3a404a; --dots: #7db1ff; --plain: #fb923c; --time: #4ade80;\n"
    "  --paper: #14171c; } }\n"
    "body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink);\n"
    "  background: var(--paper); max-width: 78rem; margin: 2rem auto; padding: 0 1rem; "
    "}\n"
    "h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem "
    "0 .4rem; }\n"
    "p { margin: .3rem 0 .8rem; max-width: 60rem; } small, .dim { color: var(--dim); }\n"
    "figure { margin: 0; } svg { width: 100%; display: block; }\n"
    "figure svg { border: 1px solid var(--line); border-radius: 6px; }\n"
    "path { fill: none; stroke: var(--dots); stroke-width: 7; stroke-linecap: round; }\n"
    "figcaption { font-size: .82rem; padding: .2rem 0 .1rem; } figcaption b { "
    "margin-left: .5em; }\n"
    ".plain svg { border: 2px solid var(--plain); } .time svg { border: 2px solid "
    "var(--time); }\n"
    ".top { display: grid; grid-template-columns: 1fr 1fr 2fr; gap: 1rem; align-items: "
    "start; }\n"
    ".grid { display: grid; grid-template-columns: 4.5rem repeat(7, 1fr); gap: .5rem; "
    "align-items: center; }\n"
    ".grid strong { font-size: .95rem; } .head { font-size: .82rem; align-self: end; }\n"
    ".charts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; }\n"
    ".chart svg { height: 7rem; } .chart rect { fill: var(--dots); opacity: .28; }\n"
    ".chart path { stroke-width: 2; vector-effect: non-scaling-stroke; }\n"
    ".chart .plain { stroke: var(--plain); } .chart .time { stroke: var(--time); }\n"
    "table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; "
    "}\n"
    "th, td { text-align: right; padding: .18rem .35rem; border-bottom: 1px solid "
    "var(--line);\n"
    "  white-space: nowrap; font-size: .82rem; }\n"
    "th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }\n"
    ".v0 { color: var(--time); font-weight: 600; } .v1 { color: var(--dim); }\n"
    ".v2 { color: var(--plain); font-weight: 600; }\n"
    ".wide { overflow-x: auto; }\n</style>\n</head>\n<body>\n";

/* The most that time groups win, in words. */
static inline void page_summary(FILE *out, const page *p) {
    const setting *best = NULL, *best_plain = NULL;
    int better = 0, worse = 0, compared = 0, nearer = 0, farther = 0;
    for (int i = 0; i < p->num_settings; i++) {
        const setting *s = &p->settings[i];
        if (s->how != GROUPS_BEST) continue;
        const setting *plain =
            page_find(p, s->weight_bits, s->activation_bits, GROUPS_PLAIN);
        const int verdict = page_verdict(s, plain);
        compared++;
        better += verdict < 0;
        worse += verdict > 0;
        nearer += s->difference.mean + s->difference.half < 0;
        farther += s->difference.mean - s->difference.half > 0;
        if (best == NULL || plain->distance.mean - s->distance.mean >
                                best_plain->distance.mean - best->distance.mean) {
            best = s;
            best_plain = plain;
        }
    }
    if (best == NULL) return;
    fprintf(
        out,
        "<p>With weights of %s and activations of %s, samples are <b>%.3f</b> from "
        "the data when one range of activations serves all timesteps, <b>%.3f</b> "
        "when each group of timesteps has its own; float32 is at <b>%.3f</b>, and "
        "fresh data at %.3f from other fresh data. Of %d pairs of settings time "
        "groups win %d and lose %d by intervals that do not overlap; compared seed by "
        "seed, they win %d and lose %d.</p>\n",
        bits_name(best->weight_bits), bits_name(best->activation_bits),
        best_plain->distance.mean, best->distance.mean, p->settings[0].distance.mean,
        p->fresh->distance.mean, compared, better, worse, nearer, farther);
}

static inline void page_grid(FILE *out, const page *p) {
    static const int weights[] = {8, 4, 2}, activations[] = {8, 6, 4};
    fprintf(out,
            "<h2>Samples</h2>\n<p class=\"dim\">Across: activations of float32, then "
            "of 8, 6 and 4 bits, with one range (orange) and with time groups "
            "(green). Down: bits of the weights. The number is the distance from "
            "fresh data.</p>\n<div class=\"grid\">\n");
    fprintf(out, "<span></span><span class=\"head\">float32</span>");
    for (int a = 0; a < 3; a++)
        fprintf(out,
                "<span class=\"head\">%s,<br/>one range</span>"
                "<span class=\"head\">%s,<br/>time groups</span>\n",
                bits_name(activations[a]), bits_name(activations[a]));
    for (int w = 0; w < 3; w++) {
        fprintf(out, "<strong>%s</strong>\n", bits_name(weights[w]));
        page_panel(out, p, page_find(p, weights[w], 0, GROUPS_PLAIN), "", "float");
        for (int a = 0; a < 3; a++) {
            page_panel(out, p, page_find(p, weights[w], activations[a], GROUPS_PLAIN), "",
                       "plain");
            page_panel(out, p, page_find(p, weights[w], activations[a], GROUPS_BEST), "",
                       "time");
        }
    }
    fprintf(out, "</div>\n");
}

/* page_write - true when the whole file was written. */
static inline bool page_write(const char *path, const page *p) {
    FILE *out = fopen(path, "w");
    if (out == NULL) return false;
    fputs(page_head, out);
    fprintf(out, "<h1>A diffusion model in few bits</h1>\n");
    page_summary(out, p);
    fprintf(out, "<div class=\"top\">\n");
    page_panel(out, p, p->fresh, "fresh data", "float");
    page_panel(out, p, &p->settings[0], "float32 model", "float");
    fprintf(out,
            "<div><p>Why: what a layer is given changes along the timesteps. Blue is "
            "where its values lie, from noise (left) to data (right). 4-bit codes "
            "reach what is between the orange lines with one range, between the "
            "green lines with %d time groups.</p>\n<div class=\"charts\">\n",
            RANGES_GROUPS);
    for (int layer = 0; layer < DIFFUSION_LAYERS; layer++)
        page_chart(out, &p->layers[layer], layer);
    fprintf(out, "</div></div></div>\n");
    page_grid(out, p);
    fprintf(
        out,
        "<h2>All settings</h2>\n<p class=\"dim\">%d seeds of %d points; mean and "
        "95 %% confidence interval over the seeds. Distance: sliced Wasserstein, in "
        "units of the picture (the spiral is 3.6 wide). Moved: how far a point is, "
        "on average, from what float32 makes of the same noise. Difference: to one "
        "range, seed by seed. Better, worse: the intervals of the two distances do not "
        "overlap. Activations of float32 multiply float32 values, the others "
        "integers.</p>\n<div class=\"wide\"><table>\n<tr><th>weights</th>"
        "<th>activations</th><th>ranges</th><th>distance</th><th>energy "
        "distance</th><th>moved</th>"
        "<th>difference</th><th></th><th>file, KiB</th><th>points/s</th></tr>\n",
        p->seeds, (int)p->count);
    fprintf(
        out,
        "<tr><td>fresh data</td><td></td><td></td><td>%.4f &#xb1; %.4f</td>"
        "<td>%.4f &#xb1; %.4f</td><td></td><td></td><td></td><td></td><td></td></tr>\n",
        p->fresh->distance.mean, p->fresh->distance.half, p->fresh->energy_distance.mean,
        p->fresh->energy_distance.half);
    for (int i = 0; i < p->num_settings; i++)
        page_row(out, p, &p->settings[i]);
    fprintf(out, "</table></div>\n</body>\n</html>\n");
    const bool good = ferror(out) == 0;
    return fclose(out) == 0 && good;
}

#endif /* DIFFUSION_PAGE_H */
