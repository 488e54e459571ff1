/* The Thrift reader and writer of arrowquant.h against libthrift and the classes that it
 * generates from parquet.thrift. Usage: oracle SEED COUNT DIRECTORY
 *   SEED, COUNT   COUNT random structs of each kind, from the seeds SEED, SEED + 1, ...
 *   DIRECTORY     *.parquet below it: footers and page headers; skipped when absent */
#include "schema.h"
#include "tables.h"

#include "parquet_types.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>

/*==========================================================================
 * Counting
 *========================================================================*/

static int passed, failed, skipped;

/* Runs one test, which throws or returns what is wrong, or "". */
static void test(const std::string &name, const std::function<std::string()> &run) {
    std::string wrong;
    try {
        wrong = run();
    } catch (const std::exception &e) {
        wrong = std::string("refused: ") + e.what();
    }
    printf("%s %s%s%s\n", wrong.empty() ? "ok" : "FAIL", name.c_str(),
           wrong.empty() ? "" : ": ", wrong.c_str());
    (wrong.empty() ? passed : failed)++;
}

/*==========================================================================
 * The generated classes
 *========================================================================*/

/* The bytes read into a generated class and written again: fields that parquet.thrift
 * does not have are gone, a missing required one throws. */
template <class T> std::string normalize(const std::string &bytes, size_t *out_used) {
    T object;
    auto source = open(bytes), sink = std::make_shared<TMemoryBuffer>();
    TCompactProtocol in(source), out(sink);
    object.read(&in);
    object.write(&out);
    *out_used = bytes.size() - source->available_read();
    return sink->getBufferAsString();
}

struct Root {
    const char *name;
    const aqi_thrift_struct *table;
    std::string (*normalize)(const std::string &bytes, size_t *out_used);
};

static const Root file_root = {"FileMetaData", &aqi_file_meta_type,
                               normalize<parquet::FileMetaData>};
static const Root page_root = {"PageHeader", &aqi_page_header_type,
                               normalize<parquet::PageHeader>};
static const Root roots[] = {file_root, page_root};

/*==========================================================================
 * The tables against parquet.thrift
 *========================================================================*/

/* is_adjusted_to_utc and isAdjustedToUTC, uuid and UUID are the same name. */
static std::string plain_name(const std::string &name) {
    std::string plain;
    for (char c : name)
        if (c != '_') plain += static_cast<char>(tolower(c));
    return plain == "enumeration" ? "enum" : plain; // which is a keyword of C
}

static std::string check_field(const aqi_thrift_field &f, const SchemaRow &row) {
    if (plain_name(f.name) != plain_name(row.name)) return std::string("is ") + row.name;
    if (type_of(f) != row.type || element_of(f) != row.element) return "has another type";
    if ((f.type != NULL) != (*row.target != '\0')) return "has a table for a plain type";
    return "";
}

static std::string check_table(const aqi_thrift_struct *table, const std::string &owner) {
    const auto &rows = fields_of(owner);
    for (size_t k = 0; k < table->num_fields; k++) {
        const aqi_thrift_field &f = table->fields[k];
        auto row = std::find_if(rows.begin(), rows.end(),
                                [&f](const SchemaRow &r) { return r.id == f.id; });
        std::string wrong = row == rows.end() ? "does not exist" : check_field(f, *row);
        if (wrong.empty() && (table->required >> k & 1) != (row->presence == REQUIRED))
            wrong = "differs in being required";
        if (wrong.empty() && k > 0 && table->fields[k - 1].id >= f.id)
            wrong = "is out of order, which the reader relies on";
        if (!wrong.empty()) return std::string(f.name) + " " + wrong;
    }
    for (const SchemaRow &row : rows)
        if (row.presence == REQUIRED && table->num_fields > 0 && !field_of(table, row.id))
            return std::string(row.name) + " is required and missing";
    return "";
}

/* The table, and those of its fields; each pair once. */
static void test_tables(const aqi_thrift_struct *table, const std::string &owner) {
    static std::set<std::pair<const aqi_thrift_struct *, std::string>> seen;
    if (!seen.insert({table, owner}).second) return;
    test(std::string("table ") + table->name + " is " + owner,
         [=] { return check_table(table, owner); });
    for (const SchemaRow &row : fields_of(owner)) {
        const aqi_thrift_field *f = field_of(table, row.id);
        if (f != NULL && f->type != NULL) test_tables(f->type, row.target);
    }
}

/*==========================================================================
 * Bytes of one side, read by the other
 *========================================================================*/

/* What the header wrote for `want`. The encoding is canonical: libthrift's bytes for the
 * same values are the same, down to the element type of an empty list. */
static std::string check_written(const Root &root, const std::string &bytes,
                                 const Value &want) {
    size_t used;
    std::string wrong = difference(decode(root.normalize(bytes, &used)), want);
    if (!wrong.empty()) return "written" + wrong;
    if (used != bytes.size()) return "libthrift stops before the end";
    if (bytes != encode(want)) return "libthrift has other bytes for the same values";
    return "";
}

/* Bytes that libthrift reads as `want` and `want_used` bytes: read by the header, and
 * written again. */
static std::string check_read(const Root &root, const std::string &bytes,
                              const Value &want, size_t want_used) {
    Memory memory;
    size_t used;
    void *object = read_struct(memory, root.table, bytes, &used);
    std::string wrong = difference(tree_of(root.table, object), want);
    if (!wrong.empty()) return "read" + wrong;
    if (used != want_used)
        return std::to_string(used) + " bytes read, libthrift " +
               std::to_string(want_used);
    return check_written(root, write_struct(memory, root.table, object), want);
}

/* Fills, writes. */
static std::string check_write(const Root &root, const Value &want) {
    Memory memory;
    void *object = memory.zeroed(root.table->size);
    fill(memory, root.table, want, object);
    return check_written(root, write_struct(memory, root.table, object), want);
}

/* As check_read, of a struct with all fields of parquet.thrift. */
static std::string check_all_fields(const Root &root, const Value &tree) {
    size_t used;
    std::string bytes = encode(tree);
    if (root.normalize(bytes, &used) != bytes)
        return "the generated class lost something";
    return check_read(root, bytes, known(tree, root.table), used);
}

static void test_random(const Root &root, uint64_t seed, uint64_t count) {
    std::string kind =
        std::to_string(count) + " random " + root.name + ", seed " + std::to_string(seed);
    auto each = [=](const std::function<std::string(const Value &)> &check) {
        return [=]() -> std::string {
            for (uint64_t s = seed; s < seed + count; s++) {
                Value tree = Generator(s).random_struct(root.name);
                std::string wrong;
                try {
                    wrong = check(tree);
                } catch (const std::exception &e) {
                    wrong = std::string("refused: ") + e.what();
                }
                if (!wrong.empty()) return "seed " + std::to_string(s) + ": " + wrong;
            }
            return "";
        };
    };
    test("write " + kind, each([&root](const Value &tree) {
             return check_write(root, known(tree, root.table));
         }));
    test("read " + kind,
         each([&root](const Value &tree) { return check_all_fields(root, tree); }));
}

/*==========================================================================
 * Files
 *========================================================================*/

/* A struct at the start of `bytes`; how many bytes libthrift takes for it. */
static std::string check_found(const Root &root, const std::string &bytes,
                               size_t *out_used) {
    Value tree = decode(root.normalize(bytes, out_used));
    return check_read(root, bytes, known(tree, root.table), *out_used);
}

/* Every page header of a column chunk; one without a data page gives its offset as 0. */
static std::string check_chunk(const std::string &file, const aqi_column_meta &m,
                               int *pages) {
    size_t at = static_cast<size_t>(aqi_chunk_start(&m));
    size_t end = at + static_cast<size_t>(m.total_compressed_size);
    if (m.data_page_offset == 0) return "";
    if (end > file.size() || at > end) return "a column chunk lies outside the file";
    while (at < end) {
        Memory memory;
        size_t used;
        /* Larger than any page header here, and much smaller than most chunks. */
        std::string bytes = file.substr(at, std::min<size_t>(end - at, 1 << 16));
        std::string wrong = check_found(page_root, bytes, &used);
        if (!wrong.empty()) return "page header at " + std::to_string(at) + " " + wrong;
        auto *header = static_cast<aqi_page_header *>(
            read_struct(memory, page_root.table, bytes, &used));
        at += used + static_cast<size_t>(header->compressed_page_size);
        ++*pages;
    }
    return "";
}

static std::string check_file(const std::string &file, int *pages) {
    Memory memory;
    size_t used;
    if (file.size() < 12) return "not a Parquet file";
    uint32_t length =
        aqi_load_le32(reinterpret_cast<const uint8_t *>(file.data() + file.size() - 8));
    if (length > file.size() - 12) return "the footer is longer than the file";
    std::string bytes = file.substr(file.size() - 8 - length, length);
    std::string wrong = check_found(file_root, bytes, &used);
    if (!wrong.empty()) return "footer " + wrong;
    auto *meta =
        static_cast<aqi_file_meta *>(read_struct(memory, file_root.table, bytes, &used));
    auto *groups = static_cast<const aqi_row_group *>(meta->row_groups.items);
    for (uint32_t g = 0; g < meta->row_groups.count; g++) {
        auto *chunks = static_cast<const aqi_column_chunk *>(groups[g].columns.items);
        for (uint32_t c = 0; c < groups[g].columns.count; c++) {
            wrong = check_chunk(file, chunks[c].meta_data, pages);
            if (!wrong.empty()) return wrong;
        }
    }
    return "";
}

static void test_files(const std::string &directory) {
    std::set<std::filesystem::path> paths;
    int pages = 0;
    if (!std::filesystem::is_directory(directory)) {
        printf("skip footers and page headers: there is no %s\n", directory.c_str());
        skipped++;
        return;
    }
    for (const auto &entry : std::filesystem::directory_iterator(directory))
        if (entry.path().extension() == ".parquet") paths.insert(entry.path());
    for (const auto &path : paths) {
        test("file " + path.filename().string(), [&] {
            std::ifstream in(path, std::ios::binary);
            std::string file((std::istreambuf_iterator<char>(in)), {});
            return check_file(file, &pages);
        });
    }
    printf("%zu footers, %d page headers\n", paths.size(), pages);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: oracle SEED COUNT DIRECTORY\n");
        return 2;
    }
    for (const Root &root : roots) {
        test_tables(root.table, root.name);
        test_random(root, strtoull(argv[1], NULL, 10), strtoull(argv[2], NULL, 10));
    }
    test_files(argv[3]);
    printf("%d passed, %d failed", passed, failed);
    if (skipped > 0) printf(", %d skipped", skipped);
    printf("\n");
    return failed != 0;
}
