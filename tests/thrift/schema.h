/* The structs of parquet.thrift as rows, and random values of them. */
#ifndef TESTS_THRIFT_SCHEMA_H
#define TESTS_THRIFT_SCHEMA_H

#include "value.h"

#include <algorithm>
#include <map>
#include <random>

enum Presence { REQUIRED, OPTIONAL, UNION };

struct SchemaRow {
    const char *owner;
    int16_t id;
    const char *name;
    TType type, element;
    const char *target; // class of a struct, or of a list's elements, or ""
    Presence presence;
};

static const SchemaRow schema[] = {
#include "schema.inc"
};

/* Fields by ascending id; a struct without fields is a name without rows. */
inline const std::vector<SchemaRow> &fields_of(const std::string &owner) {
    static const auto by_owner = [] {
        std::map<std::string, std::vector<SchemaRow>> rows;
        for (const SchemaRow &row : schema)
            rows[row.owner].push_back(row);
        return rows;
    }();
    static const std::vector<SchemaRow> none;
    auto found = by_owner.find(owner);
    return found == by_owner.end() ? none : found->second;
}

/* Values that sit on the edges of the encoding: varint lengths, signs, list headers. */
class Generator {
  public:
    explicit Generator(uint64_t seed) : bits_(seed), elements_left_(below(400)) {}

    Value random_struct(const std::string &owner, int16_t id = 0) {
        const auto &rows = fields_of(owner);
        size_t member = rows.empty() ? 0 : below(rows.size());
        Value v;
        v.type = T_STRUCT;
        v.id = id;
        for (size_t i = 0; i < rows.size(); i++) {
            Presence presence = rows[i].presence;
            if (presence == UNION ? i == member : presence == REQUIRED || below(2))
                v.children.push_back(random_value(rows[i], rows[i].type, rows[i].id));
        }
        return v;
    }

  private:
    uint64_t below(uint64_t n) { return bits_() % n; }

    Value random_value(const SchemaRow &row, TType type, int16_t id) {
        Value v;
        if (type == T_STRUCT) return random_struct(row.target, id);
        v.type = type;
        v.id = id;
        switch (type) {
        case T_BOOL:
            v.number = static_cast<int64_t>(below(2));
            break;
        case T_BYTE:
            v.number = static_cast<int8_t>(random_integer(8));
            break;
        case T_I16:
            v.number = static_cast<int16_t>(random_integer(16));
            break;
        case T_I32:
            v.number = static_cast<int32_t>(random_integer(32));
            break;
        case T_I64:
            v.number = random_integer(64);
            break;
        case T_DOUBLE:
            v.number = static_cast<int64_t>(bits_());
            break;
        case T_STRING:
            v.bytes = random_bytes();
            break;
        default:
            v.element = row.element;
            for (size_t n = random_count(); n > 0; n--)
                v.children.push_back(random_value(row, row.element, 0));
        }
        return v;
    }

    /* +-2^k and its neighbours: all lengths of a varint. Of `width` bits, with sign. */
    int64_t random_integer(unsigned width) {
        uint64_t power = uint64_t{1} << below(width);
        uint64_t v = power + below(3) - 1;
        return static_cast<int64_t>(below(2) ? v : 0 - v);
    }

    /* Any bytes: names in files need not be UTF-8. */
    std::string random_bytes() {
        static const size_t sizes[] = {0, 1, 5, 127, 128};
        std::string bytes(sizes[below(5)], '\0');
        for (char &c : bytes)
            c = static_cast<char>(bits_());
        return bytes;
    }

    /* A list header holds a count below 15 itself, else a varint of 1 byte or more. Lists
     * in lists would grow without bound but for `elements_left_`. */
    size_t random_count() {
        static const size_t counts[] = {0, 1, 2, 3, 14, 15, 16, 127, 128};
        size_t n = std::min<size_t>(counts[below(9)], elements_left_);
        elements_left_ -= n;
        return n;
    }

    std::mt19937_64 bits_;
    size_t elements_left_;
};

#endif
