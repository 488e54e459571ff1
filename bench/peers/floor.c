/* floor.c - what no engine can beat: write() of the same bytes, the sum of the raw
 * mapping, the codec called directly on the pages of the file, with buffers reused. */
#include "peers.h"

#include <pthread.h>
#include <snappy-c.h>
#include <zstd.h>

enum { PART_BYTES_IN = 1 << 20, MAX_THREADS = 64 };

typedef struct part {
    size_t offset, stored, plain; /* stored: reading, in the file                     */
    size_t values;                /* reading: bytes at the end that are added         */
} part;

/* What a thread has, made before. */
typedef struct hand {
    uint8_t *room; /* for the largest part, unpacked or packed; touched                 */
    size_t room_bytes;
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    double sum;
} hand;

static struct {
    const job *j;
    input input;
    aq_codec codec;
    part *parts; /* pages of the file; writing: pieces of 1 MiB                         */
    size_t num_parts, largest;
    const uint8_t *from; /* the mapping, or the values                                  */
    hand hands[MAX_THREADS];
    int fd; /* writing                                                                  */
    size_t written;
    pthread_mutex_t lock;
    pthread_cond_t turn;
} self = {.lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER};

static void add_part(part p) {
    self.parts = realloc(self.parts, (self.num_parts + 1) * sizeof *self.parts);
    self.parts[self.num_parts++] = p;
    if (p.plain > self.largest) self.largest = p.plain;
}

static uint8_t *touched(size_t bytes) {
    uint8_t *p = must_alloc(bytes + 1);
    memset(p, 1, bytes + 1);
    return p;
}

/* --- Reading ------------------------------------------------------------------------ */

static void find_pages_of(const aq_parquet *file, int32_t group) {
    aq_chunk_info chunk;
    aq_page_info page;
    aq_column *column;
    aq_error err;
    bool floats = aq_parquet_column_field(file, 0)->type == AQ_FLOAT;
    check(aq_parquet_get_chunk(file, group, 0, &chunk, &err), &err);
    self.codec = chunk.codec;
    check(aq_column_open(file, group, 0, &column, &err), &err);
    for (;;) {
        check(aq_column_next_page(column, &page, &err), &err);
        if (page.header_bytes == 0) break;
        part p = {(size_t)page.data_offset, (size_t)page.compressed_bytes,
                  (size_t)page.uncompressed_bytes, (size_t)page.uncompressed_bytes};
        if (page.encoding == AQ_PLAIN && floats) p.values = 4 * (size_t)page.num_values;
        add_part(p);
    }
    aq_column_close(column);
}

static void find_pages(const job *j) {
    aq_parquet_info info;
    aq_parquet *file;
    aq_error err;
    check(aq_parquet_open(j->in, NULL, &file, &err), &err);
    aq_parquet_get_info(file, &info);
    for (int32_t g = 0; g < info.num_row_groups; g++)
        find_pages_of(file, g);
    aq_parquet_close(file);
}

static const uint8_t *unpack(const part *p, const hand *h) {
    const uint8_t *stored = self.from + p->offset;
    size_t n = p->plain;
    if (self.codec == AQ_ZSTD)
        n = ZSTD_decompressDCtx(h->decompressor, h->room, n, stored, p->stored);
    else if (self.codec == AQ_SNAPPY &&
             snappy_uncompress((const char *)stored, p->stored, (char *)h->room, &n) !=
                 SNAPPY_OK)
        n = 0;
    if (n != p->plain) give_up("the codec refuses a page");
    return self.codec == AQ_UNCOMPRESSED ? stored : h->room;
}

/* The values stand at the end of a page, after its levels. Nothing is null. */
static double sum_part(const part *p, const hand *h) {
    const uint8_t *plain = unpack(p, h);
    return sum_floats(plain + p->plain - p->values, p->values / sizeof(float));
}

/* --- Writing ------------------------------------------------------------------------ */

static void write_all(const uint8_t *p, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(self.fd, p, bytes);
        if (n <= 0) give_up("a write fails");
        p += n;
        bytes -= (size_t)n;
    }
}

static size_t pack(const part *p, const hand *h) {
    const uint8_t *from = self.from + p->offset;
    size_t n = h->room_bytes;
    if (self.codec == AQ_ZSTD)
        return ZSTD_compressCCtx(h->compressor, h->room, n, from, p->plain, 1);
    if (snappy_compress((const char *)from, p->plain, (char *)h->room, &n) != SNAPPY_OK)
        give_up("snappy fails");
    return n;
}

/* Threads pack side by side and write in the order of the parts. */
static void write_part(size_t index, const hand *h) {
    const part *p = &self.parts[index];
    bool plain = self.codec == AQ_UNCOMPRESSED;
    size_t n = plain ? p->plain : pack(p, h);
    pthread_mutex_lock(&self.lock);
    while (self.written != index)
        pthread_cond_wait(&self.turn, &self.lock);
    write_all(plain ? self.from + p->offset : h->room, n);
    self.written++;
    pthread_cond_broadcast(&self.turn);
    pthread_mutex_unlock(&self.lock);
}

/* --- Threads ------------------------------------------------------------------------ */

/* Threads take the parts in turn. */
static void *work(void *arg) {
    size_t me = (size_t)(uintptr_t)arg;
    hand *h = &self.hands[me];
    double sum = 0.0;
    for (size_t i = me; i < self.num_parts; i += self.j->threads) {
        if (job_writes(self.j))
            write_part(i, h);
        else
            sum += sum_part(&self.parts[i], h);
    }
    h->sum = sum;
    return NULL;
}

static double work_side_by_side(void) {
    pthread_t threads[MAX_THREADS];
    size_t n = self.j->threads;
    double sum = 0.0;
    for (size_t i = 1; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i) != 0)
            give_up("no thread");
    work((void *)(uintptr_t)0);
    for (size_t i = 1; i < n; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < n; i++)
        sum += self.hands[i].sum;
    return sum;
}

/* What needs no codec is cut, so that threads share it. */
static void cut_parts(void) {
    size_t n = self.num_parts;
    part *old = self.parts;
    self.parts = NULL;
    self.num_parts = self.largest = 0;
    for (size_t i = 0; i < n; i++) {
        size_t offset = old[i].offset + old[i].plain - old[i].values;
        for (size_t at = 0; at < old[i].values; at += PART_BYTES_IN) {
            size_t left = old[i].values - at;
            size_t bytes = left < PART_BYTES_IN ? left : PART_BYTES_IN;
            add_part((part){offset + at, bytes, bytes, bytes});
        }
    }
    free(old);
}

static double read_pages(const job *j) {
    int fd = open(j->in, O_RDONLY);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    void *map =
        size <= 0 ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) give_up("%s cannot be mapped", j->in);
    self.from = map;
    double sum = work_side_by_side();
    munmap(map, (size_t)size);
    close(fd);
    return sum;
}

/* The same bytes by the same steps: a temporary file, renamed. */
static void write_parts(const job *j) {
    char temporary[PATH_BYTES + 8];
    snprintf(temporary, sizeof temporary, "%s.new", j->out);
    self.fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    self.written = 0;
    work_side_by_side();
    close(self.fd);
    if (rename(temporary, j->out) != 0) give_up("a rename fails");
}

/* ------------------------------------------------------------------------------------ */

static void start(const job *j) {
    self.j = j;
    if (j->threads > MAX_THREADS) give_up("too many threads");
    if (job_writes(j)) {
        self.input = make_input(j);
        self.codec = job_codec(j);
        self.from = self.input.bytes != NULL ? self.input.bytes : self.input.values;
        size_t bytes = self.input.plain_bytes;
        add_part((part){0, 0, bytes, bytes});
    } else
        find_pages(j);
    if (job_writes(j) || self.codec == AQ_UNCOMPRESSED) cut_parts();
    for (size_t i = 0; i < j->threads; i++) {
        hand *h = &self.hands[i];
        h->compressor = ZSTD_createCCtx();
        h->decompressor = ZSTD_createDCtx();
        h->room_bytes = self.codec == AQ_UNCOMPRESSED ? 0 : self.largest;
        if (job_writes(j)) h->room_bytes = snappy_max_compressed_length(PART_BYTES_IN);
        h->room = touched(h->room_bytes);
    }
}

static outcome run(const job *j) {
    outcome out = {NAN, NAN, NAN, NAN};
    if (job_writes(j))
        write_parts(j);
    else
        out.sum = read_pages(j);
    if (is(j->data, "blob")) out.sum = NAN; /* lengths are in it, and dictionaries */
    return out;
}

const engine engine_floor = {"floor", start, run};
