/* aq_page_parts.c - what the page of a report is made of: its style and script, figures,
 * and text that is safe in HTML. */
#include "aq.h"

#include <math.h>
#include <string.h>

/* Lines of a style sheet or a script; NULL ends them. */
static void put_lines(buffer *out, const char *const *lines) {
    for (; *lines != NULL; lines++)
        buffer_print(out, "%s\n", *lines);
}

void page_text(buffer *out, const char *text) {
    buffer visible = {NULL, 0, 0};
    size_t i, length;
    buffer_visible(&visible, text, strlen(text));
    for (i = 0; i < visible.size; i += length + 1) {
        length = strcspn(visible.data + i, "&<>\"'");
        buffer_put(out, visible.data + i, length);
        if (i + length < visible.size)
            buffer_print(out, "&#%d;", visible.data[i + length]);
    }
    buffer_free(&visible);
}

/*==========================================================================
 * MARK: - Style
 *========================================================================*/

static const char *const style[] = {
    ":root{color-scheme:light "
    "dark;--bg:#f6f7f9;--card:#fff;--ink:#1a1f2b;--soft:#5b6474;",
    "--line:#e1e4ea;--w:#3f6fd1;--e:#d2662a;--b2:#b83280;--b4:#6b5bd2;--b8:#1f8f7a;",
    "--b0:#a9b0bd}",
    "@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1a1e26;--ink:#e6e9ef;",
    "--soft:#97a1b2;--line:#2b313c;--w:#7ea6ff;--e:#f39a5f;--b2:#f27ab8;--b4:#a598ff;",
    "--b8:#5cc8b1;--b0:#5d6675}}",
    "*{box-sizing:border-box}",
    "body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;",
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica "
    "Neue',sans-serif}",
    "main{max-width:1180px;margin:0 auto;padding:40px 24px 64px}",
    "h1{font-size:26px;line-height:1.25;margin:0 0 4px;letter-spacing:-.01em;",
    "overflow-wrap:anywhere}",
    "h2{font-size:17px;margin:40px 0 4px}",
    "p{margin:0 0 12px;color:var(--soft);max-width:88ch;font-size:14px;",
    "overflow-wrap:anywhere}",
    "code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}",
    "code,bdi{unicode-bidi:isolate;overflow-wrap:anywhere}",
    ".tiles{display:grid;gap:12px;margin:24px 0 0;",
    "grid-template-columns:repeat(auto-fit,minmax(145px,1fr))}",
    ".card{background:var(--card);border:1px solid var(--line);border-radius:10px;",
    "padding:16px}",
    ".tiles .card{display:flex;flex-direction:column;gap:2px}",
    ".tiles b{font-size:24px;font-weight:600;letter-spacing:-.02em;line-height:1.25}",
    ".tiles span,.soft{color:var(--soft);font-size:13px}",
    ".two{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(300px,1fr))"
    "}",
    ".stack{display:flex;height:26px;border-radius:6px;overflow:hidden;gap:2px}",
    ".stack i{min-width:2px}",
    ".b2{background:var(--b2)}.b4{background:var(--b4)}.b8{background:var(--b8)}",
    ".b0{background:var(--b0)}",
    ".key{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:"
    "8px}",
    "table{border-collapse:collapse;width:100%;font-size:13.5px;",
    "font-variant-numeric:tabular-nums}",
    "th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);",
    "white-space:nowrap;font-weight:400}",
    "tr:last-child>*{border-bottom:0}",
    "thead th{color:var(--soft);font-size:12.5px;vertical-align:bottom}",
    ".l{text-align:left}",
    ".n{white-space:normal;overflow-wrap:anywhere;min-width:180px}",
    ".scroll{overflow:auto;padding:6px 8px}",
    ".tall{max-height:75vh}",
    "#tensors thead th{position:sticky;top:-6px;background:var(--card);z-index:1;",
    "box-shadow:0 1px var(--line)}",
    "th button{all:unset;cursor:pointer}",
    "th button:hover,th[aria-sort] button{color:var(--ink)}",
    "th button:focus-visible,input:focus-visible{outline:2px solid var(--w);",
    "outline-offset:2px}",
    "th[aria-sort=ascending] button::after{content:' \\2191'}",
    "th[aria-sort=descending] button::after{content:' \\2193'}",
    "tbody tr:hover{background:color-mix(in srgb,var(--w) 7%,transparent)}",
    "input{font:inherit;color:inherit;background:var(--card);width:100%;max-width:320px;",
    "border:1px solid var(--line);border-radius:8px;padding:6px 10px;margin:0 0 10px;",
    "display:none}",
    ".on input{display:block}",
    "th.bar,td.bar{min-width:210px;padding:4px 24px}",
    ".bar div,.axis{position:relative;height:14px;background-image:",
    "linear-gradient(90deg,var(--line) 1px,transparent 1px);",
    "border-right:1px solid var(--line)}",
    ".bar i,.bar u,.bar s{position:absolute}",
    ".bar i{height:2px;top:6px;background:currentColor;opacity:.45}",
    ".bar u{width:8px;height:8px;top:3px;margin-left:-4px;border-radius:4px;",
    "background:currentColor}",
    ".bar s{width:2px;height:10px;top:2px;margin-left:-1px;background:currentColor}",
    "th .axis{height:16px;background:none;border:0;min-width:170px}",
    ".axis span{position:absolute;transform:translateX(-50%);font-size:11px}",
    ".c2{color:var(--b2)}.c4{color:var(--b4)}.c8{color:var(--b8)}",
    ".over{color:var(--soft);display:block;width:100%;min-width:680px;height:auto}",
    ".over text{font:11px system-ui,sans-serif;fill:currentColor}",
    ".over .grid{stroke:var(--line)}",
    ".hists{display:grid;gap:12px;",
    "grid-template-columns:repeat(auto-fill,minmax(340px,1fr))}",
    ".hists h3,.two h3{font-size:13.5px;font-weight:600;margin:0;overflow-wrap:anywhere}",
    ".pair{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin-top:10px}",
    "figure{margin:0;min-width:0}",
    "figure svg{display:block;width:100%;height:72px;border-bottom:1px solid "
    "var(--soft)}",
    ".two figure svg{height:170px;margin-top:10px}",
    ".fw{fill:var(--w)}.fe{fill:var(--e)}",
    "figcaption{color:var(--soft);font-size:11.5px}",
    ".ends{display:flex;justify-content:space-between;color:var(--soft);font-size:11px}",
    "dl{display:grid;grid-template-columns:auto 1fr;gap:4px "
    "20px;margin:0;font-size:14px}",
    "dt{color:var(--soft)}dd{margin:0;text-align:right;font-variant-numeric:tabular-"
    "nums}",
    "pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}",
    "@media print{body{background:#fff}.card{break-inside:avoid}input{display:none}",
    ".tall{max-height:none}}",
    NULL};

void page_style(buffer *out) { put_lines(out, style); }

/*==========================================================================
 * MARK: - Script
 *========================================================================*/

/* Sorts the table by a click on a heading and finds names. Without it all is there to be
 * read. No < and no &, so that the page is XML too. */
static const char *const script[] = {
    "'use strict';",
    "(function () {",
    "  var table = document.getElementById('tensors');",
    "  var body = table.tBodies[0], heads = table.tHead.rows[0].cells;",
    "  var rows = Array.prototype.slice.call(body.rows);",
    "  function is_text(column) { return column === 0 || column === 2; }",
    "  function value(row, column) {",
    "    var cell = row.cells[column], text = cell.getAttribute('data-v');",
    "    if (text === null) text = cell.textContent;",
    "    if (is_text(column)) return text;",
    "    if (text === 'inf') return Infinity;",
    "    text = parseFloat(text.replace(/,/g, ''));",
    "    return isNaN(text) ? -Infinity : text;",
    "  }",
    "  function sort(column) {",
    "    var head = heads[column], way = head.getAttribute('aria-sort');",
    "    var up = way === null ? is_text(column) : way === 'descending';",
    "    var sign = up ? 1 : -1, keyed = rows.map(function (row) {",
    "      return [value(row, column), row];",
    "    });",
    "    keyed.sort(function (a, b) {",
    "      return a[0] === b[0] ? 0 : a[0] > b[0] ? sign : -sign;",
    "    });",
    "    Array.prototype.forEach.call(heads, function (other) {",
    "      other.removeAttribute('aria-sort');",
    "    });",
    "    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');",
    "    keyed.forEach(function (pair) { body.appendChild(pair[1]); });",
    "  }",
    "  Array.prototype.forEach.call(heads, function (head, column) {",
    "    var button = head.querySelector('button');",
    "    if (button) button.addEventListener('click', function () { sort(column); });",
    "  });",
    "  document.getElementById('find').addEventListener('input', function () {",
    "    var wanted = this.value.toLowerCase();",
    "    rows.forEach(function (row) {",
    "      var name = row.cells[0].textContent.toLowerCase();",
    "      row.hidden = name.indexOf(wanted) === -1;",
    "    });",
    "  });",
    "  document.body.className = 'on';",
    "})();",
    NULL};

void page_script(buffer *out) { put_lines(out, script); }

/*==========================================================================
 * MARK: - Histograms
 *========================================================================*/

static void put_end(buffer *out, double value) {
    buffer_print(out, "<span>%.3g</span>", value);
}

void page_histogram(buffer *out, const histogram *of, char kind, const char *caption) {
    uint64_t most = 1;
    size_t i;
    for (i = 0; i < HISTOGRAM_BINS; i++) {
        if (of->counts[i] > most) most = of->counts[i];
    }
    buffer_print(
        out,
        "<figure><svg viewBox=\"0 0 %d 100\" preserveAspectRatio=\"none\" "
        "role=\"img\" aria-label=\"Histogram: %s\"><path class=\"f%c\" d=\"M0 100",
        HISTOGRAM_BINS, caption, kind);
    for (i = 0; i < HISTOGRAM_BINS; i++)
        buffer_print(out, "V%.1fH%zu", 100 - 98 * (double)of->counts[i] / (double)most,
                     i + 1);
    buffer_print(out, "V100Z\"/></svg><div class=\"ends\">");
    put_end(out, of->low);
    if (fabs(of->low + of->high) < 1e-6 * of->high) put_end(out, 0);
    put_end(out, of->high);
    buffer_print(out, "</div><figcaption>%s</figcaption></figure>\n", caption);
}
