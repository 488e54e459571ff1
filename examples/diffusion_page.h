/* diffusion_page.h - the page of tiny_diffusion.c: one HTML file with all in it. */
#ifndef DIFFUSION_PAGE_H
#define DIFFUSION_PAGE_H

#include "diffusion.h"
#include "diffusion_measure.h"

static inline float page_clamp(float value) {
    return value < -2.5f ? -2.5f : value > 2.5f ? 2.5f : value;
}

/* A cloud of points in [-2.5, 2.5]. */
static inline void page_panel(FILE *out, const results *p, const setting *s,
                              const char *title, const char *kind) {
    fprintf(out,
            "<figure class=\"%s\"><svg viewBox=\"0 0 500 500\" role=\"img\" "
            "aria-label=\"%s\"><path d=\"",
            kind, title);
    for (size_t i = 0; i < p->count; i++) {
        const float x = page_clamp(s->points[2 * i]);
        const float y = page_clamp(s->points[2 * i + 1]);
        fprintf(out, "M%d %dh0", (int)(250.5f + 100 * x), (int)(250.5f - 100 * y));
    }
    fprintf(out,
            "\"/></svg><figcaption>%s<b>%.3f</b> <small>&#xb1; %.3f</small>"
            "</figcaption></figure>\n",
            title, s->distance.mean, s->distance.half);
}

/* Least and greatest activation at each timestep, from noise to data, and what 4-bit
 * codes reach: with one range, and with one for each group. */
static inline void page_chart(FILE *out, const results *p, const aq_calibrated *input,
                              int layer) {
    const double wide = 500.0 / (double)input->num_steps;
    const double span = (double)(input->max - input->min), top = (double)input->max;
    fprintf(out, "<figure class=\"chart\"><svg viewBox=\"0 0 500 300\" role=\"img\" "
                 "aria-label=\"ranges\" preserveAspectRatio=\"none\">");
    for (size_t i = 0; i < input->num_steps; i++) {
        const aq_step_stats *s = &input->steps[input->num_steps - 1 - i];
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                (double)i * wide, 300 * (top - (double)s->max) / span, wide,
                300 * (double)(s->max - s->min) / span);
    }
    for (int which = 0; which < 4; which++) {
        const grouping how = which < 2 ? GROUPS_ONE : GROUPS_SIMILAR;
        const setting *s = find_setting(p, 8, 4, how);
        const float code = which % 2 == 0 ? 0 : 15;
        fprintf(out, "<path class=\"%s\" d=\"", how == GROUPS_ONE ? "plain" : "time");
        for (int step = 0; step < DIFFUSION_STEPS; step++) {
            const aq_affine *c = &s->codes[layer][step];
            const double value = (double)(c->scale * (code - c->zero_point));
            fprintf(out, "%s%.1f %.1fH%.1f", step == 0 ? "M" : "L",
                    step * 500.0 / DIFFUSION_STEPS, 300 * (top - value) / span,
                    (step + 1) * 500.0 / DIFFUSION_STEPS);
        }
        fprintf(out, "\"/>");
    }
    fprintf(out, "</svg><figcaption>%s</figcaption></figure>\n", input->name);
}

static inline void page_row(FILE *out, const setting *s) {
    fprintf(out, "<tr><td>%s</td><td>%s</td><td>%s</td>", bits_name(s->weight_bits),
            bits_name(s->activation_bits),
            s->activation_bits != 0 ? grouping_names[s->how] : "&#x2013;");
    fprintf(out, "<td>%.4f &#xb1; %.4f</td><td>%.4f &#xb1; %.4f</td>", s->distance.mean,
            s->distance.half, s->energy_distance.mean, s->energy_distance.half);
    fprintf(out, "<td>%.4f &#xb1; %.4f</td>", s->shift.mean, s->shift.half);
    if (s->how != GROUPS_ONE) {
        const int verdict = verdict_of(s);
        fprintf(out, "<td>%+.4f &#xb1; %.4f</td><td class=\"v%d\">%s</td>",
                s->difference.mean, s->difference.half, verdict + 1,
                verdict_names[verdict + 1]);
    } else
        fprintf(out, "<td></td><td></td>");
    fprintf(out, "<td>%.1f</td><td>%.0f</td></tr>\n", (double)s->bytes / 1024, s->rate);
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

/* Where time groups win and where they do not. */
static inline void page_verdicts(FILE *out, const results *p) {
    fprintf(
        out,
        "<h2>Where time groups win</h2>\n<p class=\"dim\">How much nearer to "
        "(&#x2212;) or farther from (+) the data samples are with %d groups of "
        "similar timesteps than with one range. Green and orange: the interval of "
        "the difference, seed by seed, does not hold 0. Groups bring samples back to "
        "those of float32 (<em>moved</em>, below); where one range costs nothing, that "
        "is no nearer to the data.</p>\n"
        "<div class=\"wide\"><table>\n<tr><th>weights</th>",
        DIFFUSION_GROUPS);
    for (int a = 0; a < 3; a++)
        fprintf(out, "<th>activations of %s</th>", bits_name(activation_widths[a]));
    fprintf(out, "</tr>\n");
    for (int w = 0; w < 3; w++) {
        fprintf(out, "<tr><td>%s</td>", bits_name(weight_widths[w]));
        for (int a = 0; a < 3; a++) {
            const setting *s =
                find_setting(p, weight_widths[w], activation_widths[a], GROUPS_SIMILAR);
            const int verdict = verdict_of(s);
            fprintf(out, "<td class=\"v%d\">%s, %+.4f &#xb1; %.4f</td>", verdict + 1,
                    verdict_names[verdict + 1], s->difference.mean, s->difference.half);
        }
        fprintf(out, "</tr>\n");
    }
    fprintf(out, "</table></div>\n");
}

/* The most that time groups win, in words. */
static inline void page_summary(FILE *out, const results *p) {
    const setting *best = NULL, *one = NULL;
    int compared = 0, apart = 0, counts[3] = {0, 0, 0};
    for (int i = 0; i < p->num_settings; i++) {
        const setting *s = &p->settings[i];
        if (s->how != GROUPS_SIMILAR) continue;
        compared++;
        counts[verdict_of(s) + 1]++;
        if (best == NULL || s->difference.mean < best->difference.mean) best = s;
        one = find_setting(p, s->weight_bits, s->activation_bits, GROUPS_ONE);
        apart +=
            s->distance.mean + s->distance.half < one->distance.mean - one->distance.half;
    }
    one = find_setting(p, best->weight_bits, best->activation_bits, GROUPS_ONE);
    fprintf(out,
            "<p>With weights of %s and activations of %s, samples are <b>%.3f</b> from "
            "the data when one range of activations serves all timesteps, <b>%.3f</b> "
            "when each group of timesteps has its own; float32 is at <b>%.3f</b>, and "
            "fresh data at %.3f from other fresh data. Compared seed by seed, time "
            "groups win %d of %d pairs of settings, lose %d, and make no clear "
            "difference in %d; in %d the intervals of the two distances do not even "
            "overlap.</p>\n",
            bits_name(best->weight_bits), bits_name(best->activation_bits),
            one->distance.mean, best->distance.mean, p->settings[0].distance.mean,
            p->fresh.distance.mean, counts[0], compared, counts[2], counts[1], apart);
}

static inline void page_grid(FILE *out, const results *p) {
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
                bits_name(activation_widths[a]), bits_name(activation_widths[a]));
    for (int w = 0; w < 3; w++) {
        fprintf(out, "<strong>%s</strong>\n", bits_name(weight_widths[w]));
        page_panel(out, p, find_setting(p, weight_widths[w], 0, GROUPS_ONE), "", "float");
        for (int a = 0; a < 3; a++) {
            page_panel(
                out, p,
                find_setting(p, weight_widths[w], activation_widths[a], GROUPS_ONE), "",
                "plain");
            page_panel(
                out, p,
                find_setting(p, weight_widths[w], activation_widths[a], GROUPS_SIMILAR),
                "", "time");
        }
    }
    fprintf(out, "</div>\n");
}

static inline void page_settings(FILE *out, const results *p) {
    const setting *fresh = &p->fresh;
    fprintf(out,
            "<h2>All settings</h2>\n<p class=\"dim\">%d seeds of %d points; mean and "
            "95 %% confidence interval over the seeds. Distance: sliced Wasserstein, in "
            "units of the picture (the spiral is 3.6 wide). Moved: how far a point is, "
            "on average, from what float32 makes of the same noise. Difference: of the "
            "distances, to one range, seed by seed. Activations of float32 multiply "
            "float32 values, the others integers.</p>\n<div class=\"wide\"><table>\n"
            "<tr><th>weights</th><th>activations</th><th>ranges</th><th>distance</th>"
            "<th>energy distance</th><th>moved</th><th>difference</th><th></th>"
            "<th>file, KiB</th><th>points/s</th></tr>\n",
            p->seeds, (int)p->count);
    fprintf(out,
            "<tr><td>fresh data</td><td></td><td></td><td>%.4f &#xb1; %.4f</td>"
            "<td>%.4f &#xb1; %.4f</td><td></td><td></td><td></td><td></td><td></td>"
            "</tr>\n",
            fresh->distance.mean, fresh->distance.half, fresh->energy_distance.mean,
            fresh->energy_distance.half);
    for (int i = 0; i < p->num_settings; i++)
        page_row(out, &p->settings[i]);
    fprintf(out, "</table></div>\n");
}

/* page_write - true when the whole file was written. */
static inline bool page_write(const char *path, const results *p,
                              const aq_calibration *calibration) {
    FILE *out = fopen(path, "w");
    if (out == NULL) return false;
    fputs(page_head, out);
    fprintf(out, "<h1>A diffusion model in few bits</h1>\n");
    page_summary(out, p);
    fprintf(out, "<div class=\"top\">\n");
    page_panel(out, p, &p->fresh, "fresh data", "float");
    page_panel(out, p, &p->settings[0], "float32 model", "float");
    fprintf(out,
            "<div><p>Why: what a layer is given changes along the timesteps. Blue is "
            "where its values lie, from noise (left) to data (right). 4-bit codes "
            "reach what is between the orange lines with one range, between the "
            "green lines with %d time groups.</p>\n<div class=\"charts\">\n",
            DIFFUSION_GROUPS);
    for (int layer = 0; layer < DIFFUSION_LAYERS; layer++) {
        char name[32];
        diffusion_layer_name(name, sizeof name, layer);
        page_chart(out, p, aq_calibration_find(calibration, name), layer);
    }
    fprintf(out, "</div></div></div>\n");
    page_grid(out, p);
    page_verdicts(out, p);
    page_settings(out, p);
    fprintf(out, "</body>\n</html>\n");
    const bool good = ferror(out) == 0;
    return fclose(out) == 0 && good;
}

#endif /* DIFFUSION_PAGE_H */
