/* gen.c - writes a safetensors file to stdout, for the tests of the command.
 *
 *   gen NAME DTYPE SHAPE FILL ... [--metadata JSON]
 *
 * NAME goes into the JSON header as it is (escape it yourself); DTYPE F32 F16 I64 U8; SHAPE
 * 4x16, or "" for a scalar; FILL random (the same each time), ramp, zero, nan or huge (ramp
 * with a NaN or 2^126 as its second value), or hole: zero, but not written to the disk, as
 * all tensors behind it must be; stdout is a file then. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef struct tensor {
    const char *name, *dtype, *shape, *fill;
    uint64_t count;
    size_t item_bytes;
} tensor;

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void fail(const char *what) {
    fprintf(stderr, "gen: %s\n", what);
    exit(2);
}

static size_t item_bytes(const char *dtype) {
    if (strcmp(dtype, "F32") == 0) return 4;
    if (strcmp(dtype, "F16") == 0) return 2;
    if (strcmp(dtype, "I64") == 0) return 8;
    if (strcmp(dtype, "U8") == 0) return 1;
    fail("unknown dtype");
    return 0;
}

static uint64_t count_items(const char *shape) {
    uint64_t count = 1;
    while (*shape != '\0') {
        char *end;
        count *= strtoull(shape, &end, 10);
        if (end == shape) fail("bad shape");
        shape = *end == 'x' ? end + 1 : end;
    }
    return count;
}

static float f32_item(const char *fill, uint64_t i) {
    uint32_t nan_bits = 0x7fc00000u;
    float value = (float)(i % 97) / 8 - 6;
    if (strcmp(fill, "zero") == 0) return 0;
    if (strcmp(fill, "huge") == 0 && i == 1) value = 0x1p126f;
    if (strcmp(fill, "nan") == 0 && i == 1) memcpy(&value, &nan_bits, sizeof value);
    if (strcmp(fill, "random") == 0) value = (float)(next_random() >> 40) / 8388608.0f - 1;
    return value;
}

static uint64_t integer_item(const tensor *of, uint64_t i) {
    uint64_t value = strcmp(of->fill, "random") == 0 ? next_random()
                     : strcmp(of->fill, "zero") == 0 ? 0
                                                     : i;
    /* float16: any sign and mantissa, between 1/4 and 1/2 */
    if (strcmp(of->dtype, "F16") == 0) value = (value & 0x83ff) | 0x3400;
    return value;
}

/* Little-endian on any machine. */
static void put_bytes(uint64_t bits, size_t bytes) {
    for (; bytes != 0; bytes--, bits >>= 8) putchar((int)(bits & 0xff));
}

static void put_data(const tensor *of) {
    uint64_t i;
    for (i = 0; i < of->count; i++) {
        uint64_t bits;
        if (strcmp(of->dtype, "F32") == 0) {
            float value = f32_item(of->fill, i);
            uint32_t single;
            memcpy(&single, &value, sizeof single);
            bits = single;
        } else {
            bits = integer_item(of, i);
        }
        put_bytes(bits, of->item_bytes);
    }
}

/* The header's entry of one tensor, at out; returns its length. */
static size_t format_entry(char *out, size_t room, const tensor *of, uint64_t offset) {
    char dims[128] = "";
    size_t i, n = strlen(of->shape);
    if (n >= sizeof dims) fail("shape too long");
    for (i = 0; i <= n; i++) dims[i] = of->shape[i] == 'x' ? ',' : of->shape[i];
    i = (size_t)snprintf(out, room,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                         offset != 0 || out[-1] == '}' ? "," : "", of->name, of->dtype, dims,
                         (unsigned long long)offset,
                         (unsigned long long)(offset + of->count * of->item_bytes));
    if (i >= room) fail("header too long");
    return i;
}

int main(int argc, char **argv) {
    static char header[1 << 20] = "{";
    static tensor tensors[4096];
    size_t n = 0, i, at = 1;
    uint64_t offset = 0;
    for (argv++; argc > 1 && *argv != NULL; argv += 4) {
        if (strcmp(argv[0], "--metadata") == 0 && argv[1] != NULL) {
            at += (size_t)sprintf(header + at, "\"__metadata__\":%s", argv[1]);
            break;
        }
        if (n == 4096 || !argv[1] || !argv[2] || !argv[3]) fail("wrong arguments");
        tensors[n].name = argv[0];
        tensors[n].dtype = argv[1];
        tensors[n].shape = argv[2];
        tensors[n].fill = argv[3];
        tensors[n].count = count_items(argv[2]);
        tensors[n].item_bytes = item_bytes(argv[1]);
        n++;
    }
    for (i = 0; i < n; i++) {
        at += format_entry(header + at, sizeof header - at - 16, &tensors[i], offset);
        offset += tensors[i].count * tensors[i].item_bytes;
    }
    header[at++] = '}';
    while (at % 8 != 0) header[at++] = ' ';
    put_bytes(at, 8);
    fwrite(header, 1, at, stdout);
    for (i = 0; i < n && strcmp(tensors[i].fill, "hole") != 0; i++) {
        put_data(&tensors[i]);
        offset -= tensors[i].count * tensors[i].item_bytes;
    }
    if (i < n && (fflush(stdout) != 0 || ftruncate(1, lseek(1, 0, SEEK_CUR) + (off_t)offset) != 0))
        fail("cannot make a hole");
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 2;
}
