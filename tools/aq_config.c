/* aq_config.c - settings of `aq quantize` from a YAML file and from profiles, and
 * `aq config`, which writes such a file. A key is an option's name: an option in
 * quantize_settings is a key without more ado. */
#include "aq.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#ifdef AQ_WITH_YAML
#include <yaml.h>
#endif

typedef struct setting_list {
    cli_setting *items;
    size_t count;
} setting_list;

static cli_setting *add_setting(setting_list *out, int id, cli_origin origin) {
    cli_setting *item;
    if ((out->count & (out->count - 1)) == 0) /* full: room is a power of 2 */
        out->items = (cli_setting *)cli_resize(
            out->items, out->count == 0 ? 1 : 2 * out->count, sizeof *out->items);
    item = &out->items[out->count++];
    memset(item, 0, sizeof *item);
    item->id = id;
    item->origin = origin;
    return item;
}

static const cli_option *find_key(const char *name) {
    const cli_option *option = quantize_settings;
    while (option->name != NULL && strcmp(option->name, name) != 0)
        option++;
    return option->name != NULL ? option : NULL;
}

/*==========================================================================
 * MARK: - Profiles
 *========================================================================*/

typedef struct profile_entry {
    const char *key;
    const char *values[3]; /* of each profile, as a file has them */
} profile_entry;

static const char *const profile_names[] = {"edge", "local", "cloud"};
static const char *const profile_uses[] = {"small devices: the smallest files",
                                           "a machine of one's own",
                                           "servers: the smallest error"};
static const profile_entry profile_entries[] = {
    {"bits", {"2", "4", "8"}},
    {"group-size", {"256", "128", "64"}},
    {"min-cosine", {"0.65", "0.85", "0.95"}},
    {"streaming", {"true", "true", "false"}},
    {"time-groups", {"5", "10", "20"}},
    {"equalize", {"false", "true", "true"}},
};
enum { NUM_PROFILES = 3, NUM_ENTRIES = sizeof profile_entries / sizeof *profile_entries };

/* Position of a profile; NUM_PROFILES = there is none of that name. */
static size_t find_profile(const char *name) {
    size_t i = 0;
    while (i < NUM_PROFILES && strcmp(profile_names[i], name) != 0)
        i++;
    return i;
}

static int add_profile(const cli_args *args, const cli_setting *from, setting_list *out) {
    size_t which = find_profile(from->value), i;
    if (which == NUM_PROFILES)
        return cli_setting_error(args, from, "takes edge, local or cloud, not \"%s\"",
                                 from->value);
    for (i = 0; i < NUM_ENTRIES; i++) {
        const cli_option *key = find_key(profile_entries[i].key);
        const char *value = profile_entries[i].values[which];
        cli_setting *item = add_setting(out, key->id, CLI_FROM_PROFILE);
        if (key->value != NULL) {
            item->value = value;
        } else {
            item->off = strcmp(value, "true") != 0;
        }
    }
    return CLI_GOOD;
}

/*==========================================================================
 * MARK: - The file
 *========================================================================*/

#ifdef AQ_WITH_YAML

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_CONFIG_ITEMS = 1000, MAX_KEYS = 64 };

typedef struct reader {
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event; /* the last that was read */
    setting_list *out;
    size_t lines[MAX_KEYS]; /* where each key of quantize_settings is; 0 = not yet */
} reader;

static size_t event_line(const reader *of) { return of->event.start_mark.line + 1; }

static int file_error(const reader *of, size_t line, const char *format, ...)
    AQ_PRINTF(3, 4);
static int file_error(const reader *of, size_t line, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cli_error(of->path, "line %zu: %s", line, text);
}

/* What libyaml says; a byte that is no text has an offset only. */
static int yaml_error(const reader *of) {
    const yaml_parser_t *parser = &of->parser;
    const char *why = parser->problem != NULL ? parser->problem : "not YAML";
    if (parser->error == YAML_MEMORY_ERROR) return cli_error(of->path, "out of memory");
    if (parser->error == YAML_READER_ERROR)
        return file_error(of, parser->mark.line + 1,
                          "%s (offset %zu): write the file as UTF-8 text", why,
                          parser->problem_offset);
    return file_error(of, parser->problem_mark.line + 1, "%s (column %zu)%s%s", why,
                      parser->problem_mark.column + 1,
                      parser->context != NULL ? ": " : "",
                      parser->context != NULL ? parser->context : "");
}

static const char *event_anchor(const yaml_event_t *event) {
    const yaml_char_t *anchor = NULL;
    if (event->type == YAML_SCALAR_EVENT) anchor = event->data.scalar.anchor;
    if (event->type == YAML_SEQUENCE_START_EVENT)
        anchor = event->data.sequence_start.anchor;
    if (event->type == YAML_MAPPING_START_EVENT)
        anchor = event->data.mapping_start.anchor;
    return (const char *)anchor;
}

static const char *event_tag(const yaml_event_t *event) {
    const yaml_char_t *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) tag = event->data.scalar.tag;
    if (event->type == YAML_SEQUENCE_START_EVENT) tag = event->data.sequence_start.tag;
    if (event->type == YAML_MAPPING_START_EVENT) tag = event->data.mapping_start.tag;
    return (const char *)tag;
}

/* The text of a scalar; NULL = the event is none. */
static const char *event_text(const reader *of) {
    if (of->event.type != YAML_SCALAR_EVENT) return NULL;
    return (const char *)of->event.data.scalar.value;
}

static bool is_plain(const reader *of) {
    return of->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

/* The next event; what a configuration has no use for is an error. */
static int read_event(reader *of) {
    yaml_event_t *event = &of->event;
    yaml_event_delete(event);
    if (!yaml_parser_parse(&of->parser, event)) return yaml_error(of);
    if (event->type == YAML_ALIAS_EVENT)
        return file_error(of, event_line(of),
                          "alias *%s: write the value itself in its place",
                          (const char *)event->data.alias.anchor);
    if (event_anchor(event) != NULL)
        return file_error(of, event_line(of),
                          "anchor &%s: take it out, there are no aliases here",
                          event_anchor(event));
    if (event_tag(event) != NULL)
        return file_error(of, event_line(of), "tag %s: take it out, a key knows its type",
                          event_tag(event));
    if (event_text(of) != NULL && strlen(event_text(of)) != event->data.scalar.length)
        return file_error(of, event_line(of), "a value with a NUL in it: take it out");
    return CLI_GOOD;
}

/* The scalar of the event as the value of `key`: not null. */
static int check_text(const reader *of, const cli_option *key) {
    const char *text = event_text(of);
    if (text == NULL)
        return file_error(of, event_line(of),
                          "%s takes %s%s, not a list or mapping of them", key->name,
                          key->repeats ? "items that are each " : "", key->value);
    if (is_plain(of) &&
        (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        return file_error(of, event_line(of), "%s has no value: it takes %s", key->name,
                          key->value);
    return CLI_GOOD;
}

static int add_value(reader *of, const cli_option *key, buffer *value, size_t line) {
    cli_setting *item;
    if (of->out->count == MAX_CONFIG_ITEMS)
        return file_error(of, line,
                          "more than %d settings: join regular expressions by |",
                          MAX_CONFIG_ITEMS);
    item = add_setting(of->out, key->id, CLI_FROM_FILE);
    item->line = line;
    item->value = item->owned = value->data;
    memset(value, 0, sizeof *value);
    return CLI_GOOD;
}

/* NAME: true or false */
static int read_flag(reader *of, const cli_option *key) {
    const char *text = event_text(of);
    cli_setting *item;
    if (text == NULL || !is_plain(of) ||
        (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
        return file_error(of, event_line(of), "%s takes true or false, not %s%s%s",
                          key->name, text != NULL ? "\"" : "a list or mapping",
                          text != NULL ? text : "", text != NULL ? "\"" : "");
    item = add_setting(of->out, key->id, CLI_FROM_FILE);
    item->line = event_line(of);
    item->off = text[0] == 'f';
    return CLI_GOOD;
}

/* NAME: VALUE */
static int read_scalar(reader *of, const cli_option *key) {
    buffer value = {NULL, 0, 0};
    int code = check_text(of, key);
    if (code != CLI_GOOD) return code;
    buffer_print(&value, "%s", event_text(of));
    code = add_value(of, key, &value, event_line(of));
    buffer_free(&value);
    return code;
}

/* NAME: [VALUE, VALUE] */
static int read_list(reader *of, const cli_option *key) {
    int code = read_event(of);
    while (code == CLI_GOOD && of->event.type != YAML_SEQUENCE_END_EVENT) {
        code = read_scalar(of, key);
        if (code == CLI_GOOD) code = read_event(of);
    }
    return code;
}

/* NAME: {LEFT: RIGHT} for an option that takes LEFT=RIGHT. */
static int read_mapping(reader *of, const cli_option *key) {
    size_t first = of->out->count, i;
    int code = CLI_GOOD;
    if (of->event.type != YAML_MAPPING_START_EVENT)
        return file_error(of, event_line(of),
                          "%s takes lines below it that are each %.*s: %s", key->name,
                          (int)strcspn(key->value, "="), key->value,
                          strchr(key->value, '=') + 1);
    for (;;) {
        buffer value = {NULL, 0, 0};
        size_t line;
        code = read_event(of);
        if (code != CLI_GOOD || of->event.type == YAML_MAPPING_END_EVENT) return code;
        line = event_line(of);
        code = check_text(of, key);
        if (code != CLI_GOOD) return code;
        buffer_print(&value, "%s=", event_text(of));
        for (i = first; i < of->out->count && code == CLI_GOOD; i++) {
            if (strncmp(of->out->items[i].value, value.data, value.size) == 0 &&
                strrchr(of->out->items[i].value, '=') ==
                    of->out->items[i].value + value.size - 1)
                code = file_error(of, line, "\"%s\" is there twice (first in line %zu)",
                                  event_text(of), of->out->items[i].line);
        }
        if (code == CLI_GOOD) code = read_event(of);
        if (code == CLI_GOOD) code = check_text(of, key);
        if (code == CLI_GOOD) {
            buffer_print(&value, "%s", event_text(of));
            code = add_value(of, key, &value, line);
        }
        buffer_free(&value);
        if (code != CLI_GOOD) return code;
    }
}

static int unknown_key(const reader *of) {
    buffer keys = {NULL, 0, 0};
    const cli_option *option;
    int code;
    for (option = quantize_settings; option->name != NULL; option++)
        buffer_print(&keys, "%s%s", keys.size != 0 ? ", " : "", option->name);
    if (event_text(of) == NULL) {
        code = file_error(of, event_line(of),
                          "a list or mapping as a key: the keys are %s", keys.data);
    } else {
        code = file_error(of, event_line(of), "unknown key \"%.64s\": the keys are %s",
                          event_text(of), keys.data);
    }
    buffer_free(&keys);
    return code;
}

/* The event is a key; reads its value. */
static int read_key(reader *of) {
    const cli_option *key = event_text(of) != NULL ? find_key(event_text(of)) : NULL;
    size_t *line;
    int code;
    if (key == NULL) return unknown_key(of);
    line = &of->lines[key - quantize_settings];
    if (*line != 0)
        return file_error(of, event_line(of),
                          "key %s is there twice (first in line %zu): keep one",
                          key->name, *line);
    *line = event_line(of);
    code = read_event(of);
    if (code != CLI_GOOD) return code;
    if (key->value == NULL) return read_flag(of, key);
    if (key->repeats && strchr(key->value, '=') != NULL) return read_mapping(of, key);
    if (key->repeats && of->event.type == YAML_SEQUENCE_START_EVENT)
        return read_list(of, key);
    return read_scalar(of, key);
}

/* The one document: nothing at all, or a mapping. */
static int read_document(reader *of) {
    int code = read_event(of); /* the start of the stream */
    if (code == CLI_GOOD) code = read_event(of);
    if (code != CLI_GOOD || of->event.type == YAML_STREAM_END_EVENT) return code;
    code = read_event(of);
    if (code != CLI_GOOD) return code;
    if (of->event.type != YAML_MAPPING_START_EVENT)
        return file_error(of, event_line(of), "no settings: write each as NAME: VALUE");
    for (;;) {
        code = read_event(of);
        if (code != CLI_GOOD) return code;
        if (of->event.type == YAML_MAPPING_END_EVENT) break;
        code = read_key(of);
        if (code != CLI_GOOD) return code;
    }
    code = read_event(of); /* the end of the document */
    if (code == CLI_GOOD) code = read_event(of);
    if (code == CLI_GOOD && of->event.type != YAML_STREAM_END_EVENT)
        code = file_error(of, event_line(of), "a second document: keep one");
    return code;
}

/* All of a file that may be a pipe. */
static int read_bytes(const char *path, buffer *out) {
    FILE *file = fopen(path, "rb");
    size_t n = 1;
    int code = CLI_GOOD;
    if (file == NULL) return cli_error(path, "cannot open: %s", strerror(errno));
    while (n != 0 && out->size <= MAX_CONFIG_BYTES) {
        char *to = buffer_reserve(out, 4096);
        n = fread(to, 1, 4096, file);
        out->size += n;
    }
    if (ferror(file)) code = cli_error(path, "cannot read: %s", strerror(errno));
    fclose(file);
    return code;
}

static int read_text(const char *path, const buffer *text, setting_list *out) {
    reader of;
    int code;
    if (text->size > MAX_CONFIG_BYTES)
        return cli_error(path, "over 1 MiB: is this a configuration?");
    memset(&of, 0, sizeof of);
    of.path = path;
    of.out = out;
    if (!yaml_parser_initialize(&of.parser)) cli_resize(NULL, SIZE_MAX, 2); /* exits */
    yaml_parser_set_encoding(&of.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&of.parser, (const unsigned char *)text->data,
                                 text->size);
    code = read_document(&of);
    yaml_event_delete(&of.event);
    yaml_parser_delete(&of.parser);
    return code;
}

static int read_file(const char *path, setting_list *out) {
    buffer bytes = {NULL, 0, 0};
    int code = read_bytes(path, &bytes);
    if (code == CLI_GOOD) code = read_text(path, &bytes, out);
    buffer_free(&bytes);
    return code;
}

static void free_settings(setting_list *of) {
    while (of->count != 0)
        free(of->items[--of->count].owned);
    free(of->items);
}

/* Whether what is to be printed can be read back: there are limits. */
static int check_config(const buffer *text) {
    setting_list unused = {NULL, 0};
    int code = read_text("the configuration", text, &unused);
    free_settings(&unused);
    return code;
}

#else

static int check_config(const buffer *text) {
    (void)text;
    return CLI_GOOD;
}

static int read_file(const char *path, setting_list *out) {
    (void)out;
    return cli_error(path,
                     "this aq was built without libyaml and reads no configuration: "
                     "install libyaml-dev and build it again");
}

#endif /* AQ_WITH_YAML */

/*==========================================================================
 * MARK: - All origins together
 *========================================================================*/

static const cli_setting *find_setting(const setting_list *of, int id) {
    size_t i;
    for (i = 0; i < of->count; i++) {
        if (of->items[i].id == id) return &of->items[i];
    }
    return NULL;
}

static void remove_settings(setting_list *of, int id) {
    size_t i, kept = 0;
    for (i = 0; i < of->count; i++) {
        if (of->items[i].id == id) {
            free(of->items[i].owned);
        } else {
            of->items[kept++] = of->items[i];
        }
    }
    of->count = kept;
}

/* Two keys that exclude each other: of two origins the stronger counts. Of one origin it is
 * a mistake, which `aq quantize` reports. */
static void drop_weaker(setting_list *of, const char *key_a, const char *key_b) {
    const cli_setting *a = NULL, *b = NULL;
    size_t i;
    for (i = 0; i < of->count; i++) {
        const cli_setting *item = &of->items[i];
        if (item->id == find_key(key_a)->id) a = item;
        if (item->id == find_key(key_b)->id) b = item;
    }
    if (a == NULL || b == NULL || a->origin == b->origin) return;
    if (strcmp(b->value, "group") == 0)
        return; /* the granularity that has a group size */
    remove_settings(of, a->origin < b->origin ? a->id : b->id);
}

int config_resolve(cli_args *args) {
    const cli_setting *config = cli_find(args, CLI_CONFIG), *profile;
    setting_list file = {NULL, 0}, all = {NULL, 0};
    size_t i;
    int code = CLI_GOOD;
    if (config != NULL) {
        args->config = config->value;
        code = read_file(config->value, &file);
    }
    profile = cli_find(args, CLI_PROFILE);
    if (profile == NULL) profile = find_setting(&file, CLI_PROFILE);
    if (code == CLI_GOOD && profile != NULL) {
        args->profile = profile->value;
        code = add_profile(args, profile, &all);
    }
    for (i = 0; i < file.count; i++)
        *add_setting(&all, 0, CLI_FROM_FILE) = file.items[i];
    for (i = 0; i < args->num_settings; i++)
        *add_setting(&all, 0, CLI_FROM_FLAG) = args->settings[i];
    drop_weaker(&all, "group-size", "granularity");
    drop_weaker(&all, "target-bpw", "target-size");
    free(file.items);
    free(args->settings);
    args->settings = all.items;
    args->num_settings = all.count;
    return code;
}

/*==========================================================================
 * MARK: - `aq config`
 *========================================================================*/

/* One Unicode character of well-formed UTF-8. */
static uint32_t decode_character(const char *text, size_t length) {
    const unsigned char *s = (const unsigned char *)text;
    uint32_t c = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    size_t i;
    for (i = 1; i < length; i++)
        c = c << 6 | (s[i] & 0x3fu);
    return c;
}

/* Characters that YAML takes for the end of a line or for none, or that do not show. */
static bool is_unsafe(uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0xa0) || (c >= 0x2000 && c <= 0x206f) ||
           (c >= 0xe000 && c <= 0xf8ff) || c == 0xfeff || (c >= 0xfff0 && c <= 0xffff) ||
           c >= 0xe0000;
}

/* Text in double quotes, in which any character can be escaped. False: there are bytes that
 * are not UTF-8, and stand there as they are. */
static bool put_escaped(buffer *out, const char *text, size_t size) {
    size_t i = 0, length;
    bool good = true;
    buffer_put(out, "\"", 1);
    for (; i < size; i += length) {
        uint32_t c;
        length = utf8_length(text + i, size - i);
        if (length == 0) {
            good = false;
            length = 1;
            buffer_put(out, text + i, length);
            continue;
        }
        c = decode_character(text + i, length);
        if (c == '"' || c == '\\') {
            buffer_print(out, "\\%c", (int)c);
        } else if (!is_unsafe(c)) {
            buffer_put(out, text + i, length);
        } else {
            buffer_print(out, c < 0x10000 ? "\\u%04" PRIx32 : "\\U%08" PRIx32, c);
        }
    }
    buffer_put(out, "\"", 1);
    return good;
}

/* A YAML scalar that reads back as text[0..size): plain where that is a word or number,
 * else in single quotes, in which no sign of a regular expression is special. */
static bool put_scalar(buffer *out, const char *text, size_t size) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789_./";
    size_t i;
    if (size != 0 && strspn(text, plain) >= size && strncmp(text, "null", size) != 0) {
        buffer_put(out, text, size);
        return true;
    }
    for (i = 0; i < size; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e) return put_escaped(out, text, size);
    }
    buffer_put(out, "'", 1);
    for (i = 0; i < size; i++)
        buffer_put(out, text[i] == '\'' ? "''" : text + i, text[i] == '\'' ? 2 : 1);
    buffer_put(out, "'", 1);
    return true;
}

static void put_origin(buffer *out, const cli_args *args, const cli_setting *item) {
    if (item->origin == CLI_FROM_PROFILE) {
        buffer_print(out, "  # profile %s\n", args->profile);
    } else if (item->origin == CLI_FROM_FILE) {
        buffer visible = {NULL, 0, 0};
        buffer_visible(&visible, args->config, strlen(args->config));
        buffer_print(out, "  # ");
        put_scalar(out, visible.data, visible.size);
        buffer_print(out, ", line %zu\n", item->line);
        buffer_free(&visible);
    } else {
        buffer_print(out, "  # command line\n");
    }
}

/* LEFT: RIGHT of a mapping. */
static bool put_pair(buffer *out, const char *value) {
    enum { MAX_KEY_BYTES = 160 }; /* even escaped below the 1024 of YAML */
    const char *equals = strrchr(value, '=');
    size_t length = equals != NULL ? (size_t)(equals - value) : strlen(value);
    bool marked = length > MAX_KEY_BYTES;
    bool good;
    if (marked) buffer_print(out, "? ");
    good = put_scalar(out, value, length);
    buffer_print(out, marked ? "\n  : " : ": ");
    return equals == NULL || (put_scalar(out, equals + 1, strlen(equals + 1)) && good);
}

/* A pair whose left side comes again later says nothing. */
static bool comes_again(const cli_args *args, size_t index) {
    const cli_setting *item = &args->settings[index];
    const char *equals = strrchr(item->value, '=');
    size_t length = equals != NULL ? (size_t)(equals - item->value) : 0, i;
    for (i = index + 1; i < args->num_settings && equals != NULL; i++) {
        const cli_setting *later = &args->settings[i];
        if (later->id == item->id && strncmp(later->value, item->value, length) == 0 &&
            strrchr(later->value, '=') == later->value + length)
            return true;
    }
    return false;
}

/* The values of a key that may have several: items of a list, or pairs of a mapping. */
static bool put_items(buffer *out, const cli_args *args, const cli_option *key) {
    bool mapping = strchr(key->value, '=') != NULL, good = true;
    size_t i;
    buffer_print(out, "\n");
    for (i = 0; i < args->num_settings; i++) {
        const cli_setting *item = &args->settings[i];
        if (item->id != key->id || (mapping && comes_again(args, i))) continue;
        buffer_print(out, mapping ? "  " : "  - ");
        good = (mapping ? put_pair(out, item->value)
                        : put_scalar(out, item->value, strlen(item->value))) &&
               good;
        put_origin(out, args, item);
    }
    return good;
}

/* What a line for the key would be. */
static void put_unset(buffer *out, const cli_option *key) {
    const char *equals = key->value != NULL ? strchr(key->value, '=') : NULL;
    if (key->value == NULL) {
        buffer_print(out, "#%s: true|false\n\n", key->name);
    } else if (key->repeats && equals != NULL) {
        buffer_print(out, "#%s:\n#  %.*s: %s\n\n", key->name, (int)(equals - key->value),
                     key->value, equals + 1);
    } else {
        buffer_print(out, key->repeats ? "#%s:\n#  - %s\n\n" : "#%s: %s\n\n", key->name,
                     key->value);
    }
}

/* What a profile sets stands behind a #, unless `resolved`: the file says the profile. */
static bool put_key(buffer *out, const cli_args *args, const cli_option *key,
                    bool resolved) {
    const cli_setting *item = cli_find(args, key->id);
    const char *line = key->help;
    bool good = true;
    for (; *line != '\0'; line += strspn(line, "\n")) {
        int length = (int)strcspn(line, "\n");
        buffer_print(out, "# %.*s\n", length, line);
        line += length;
    }
    if (item == NULL) {
        put_unset(out, key);
        return true;
    }
    if (item->origin == CLI_FROM_PROFILE && !resolved) buffer_print(out, "#");
    buffer_print(out, key->repeats ? "%s:" : "%s: ", key->name);
    if (key->repeats) {
        good = put_items(out, args, key);
    } else {
        if (key->value == NULL) {
            buffer_print(out, item->off ? "false" : "true");
        } else {
            good = put_scalar(out, item->value, strlen(item->value));
        }
        put_origin(out, args, item);
    }
    buffer_print(out, "\n");
    return good;
}

/* The profile stands first: all other lines win over it. */
static void put_profile(buffer *out, const cli_args *args) {
    buffer_print(out, "# For %s. What it sets stands behind a #.\nprofile: %s",
                 profile_uses[find_profile(args->profile)], args->profile);
    put_origin(out, args, cli_find(args, CLI_PROFILE));
    buffer_print(out, "\n");
}

const cli_option *config_put(buffer *out, const cli_args *args, bool resolved) {
    const cli_option *key, *bad = NULL;
    buffer_print(out, "# Settings for: aq quantize IN OUT --config FILE\n\n");
    if (args->profile != NULL) put_profile(out, args);
    for (key = quantize_settings; key->name != NULL; key++) {
        if (key->id == CLI_PROFILE && args->profile != NULL) continue;
        if (!put_key(out, args, key, resolved)) bad = key;
    }
    return bad;
}

static int config(const cli_args *args) {
    buffer text = {NULL, 0, 0};
    const cli_option *bad;
    int code = quantize_check(args);
    if (code == CLI_GOOD && (bad = config_put(&text, args, false)) != NULL)
        code = cli_usage_error(args->command, "--%s is not UTF-8, as YAML is", bad->name);
    if (code == CLI_GOOD) code = check_config(&text);
    if (code == CLI_GOOD) {
        buffer_show(&text);
    } else {
        buffer_free(&text);
    }
    return code;
}

static const cli_option config_options[] = {CLI_OPTION_CONFIG, CLI_OPTIONS_END};

const cli_command command_config = {
    .name = "config",
    .files = "",
    .summary = "write a configuration file for quantize",
    .details =
        "Prints the settings that aq quantize would have from these options, as a YAML\n"
        "file for its --config: each with a line on what it is and where it comes\n"
        "from. Behind a # are those that are not set, or by the profile, which comes\n"
        "first.",
    .options = config_options,
    .settings = quantize_settings,
    .min_files = 0,
    .max_files = 0,
    .run = config,
};
