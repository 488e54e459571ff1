/* A Thrift value of any type as a tree; trees to and from the bytes of libthrift's
 * compact protocol. */
#ifndef TESTS_THRIFT_VALUE_H
#define TESTS_THRIFT_VALUE_H

#include <thrift/protocol/TCompactProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace apache::thrift::protocol;
using apache::thrift::transport::TMemoryBuffer;

struct Value {
    TType type = T_STOP;
    TType element = T_STOP;      // of a list
    int16_t id = 0;              // of a field
    int64_t number = 0;          // bool, integers; the bits of a double
    std::string bytes;           // string, binary
    std::vector<Value> children; // fields by ascending id, or the elements of a list
};

inline void put(TProtocol &out, const Value &v) {
    double real;
    switch (v.type) {
    case T_BOOL:
        out.writeBool(v.number != 0);
        break;
    case T_BYTE:
        out.writeByte(static_cast<int8_t>(v.number));
        break;
    case T_I16:
        out.writeI16(static_cast<int16_t>(v.number));
        break;
    case T_I32:
        out.writeI32(static_cast<int32_t>(v.number));
        break;
    case T_I64:
        out.writeI64(v.number);
        break;
    case T_DOUBLE:
        memcpy(&real, &v.number, sizeof real);
        out.writeDouble(real);
        break;
    case T_STRING:
        out.writeBinary(v.bytes);
        break;
    case T_LIST:
        out.writeListBegin(v.element, static_cast<uint32_t>(v.children.size()));
        for (const Value &item : v.children)
            put(out, item);
        out.writeListEnd();
        break;
    case T_STRUCT:
        out.writeStructBegin("");
        for (const Value &field : v.children) {
            out.writeFieldBegin("", field.type, field.id);
            put(out, field);
            out.writeFieldEnd();
        }
        out.writeFieldStop();
        out.writeStructEnd();
        break;
    default:
        throw std::logic_error("parquet.thrift has no such type");
    }
}

template <class T>
int64_t get_number(TProtocol &in, uint32_t (TProtocol::*read)(T &number)) {
    T number;
    (in.*read)(number);
    return number;
}

inline Value get(TProtocol &in, TType type, int16_t id = 0) {
    Value v;
    std::string name;
    double real;
    uint32_t count;
    v.type = type;
    v.id = id;
    switch (type) {
    case T_BOOL:
        v.number = get_number<bool>(in, &TProtocol::readBool);
        break;
    case T_BYTE:
        v.number = get_number(in, &TProtocol::readByte);
        break;
    case T_I16:
        v.number = get_number(in, &TProtocol::readI16);
        break;
    case T_I32:
        v.number = get_number(in, &TProtocol::readI32);
        break;
    case T_I64:
        v.number = get_number(in, &TProtocol::readI64);
        break;
    case T_DOUBLE:
        in.readDouble(real);
        memcpy(&v.number, &real, sizeof real);
        break;
    case T_STRING:
        in.readBinary(v.bytes);
        break;
    case T_LIST:
        in.readListBegin(v.element, count);
        while (count-- > 0)
            v.children.push_back(get(in, v.element));
        in.readListEnd();
        break;
    case T_STRUCT:
        in.readStructBegin(name);
        for (;;) {
            TType field;
            in.readFieldBegin(name, field, id);
            if (field == T_STOP) break;
            v.children.push_back(get(in, field, id));
            in.readFieldEnd();
        }
        in.readStructEnd();
        break;
    default:
        throw std::logic_error("parquet.thrift has no such type");
    }
    return v;
}

inline std::string encode(const Value &v) {
    auto buffer = std::make_shared<TMemoryBuffer>();
    TCompactProtocol out(buffer);
    put(out, v);
    return buffer->getBufferAsString();
}

inline std::shared_ptr<TMemoryBuffer> open(const std::string &bytes) {
    auto *data = reinterpret_cast<uint8_t *>(const_cast<char *>(bytes.data()));
    return std::make_shared<TMemoryBuffer>(data, static_cast<uint32_t>(bytes.size()));
}

inline Value decode(const std::string &bytes) {
    TCompactProtocol in(open(bytes));
    return get(in, T_STRUCT);
}

/* The first place where two trees differ, as ids of fields and [indices], or "". */
inline std::string difference(const Value &got, const Value &want) {
    if (got.type != want.type) return ": another type";
    if (got.number != want.number)
        return ": " + std::to_string(got.number) + ", not " + std::to_string(want.number);
    if (got.bytes != want.bytes) return ": other bytes";
    if (got.element != want.element) return ": another type of element";
    for (size_t i = 0; i < got.children.size() && i < want.children.size(); i++) {
        const Value &a = got.children[i], &b = want.children[i];
        std::string at = got.type == T_LIST ? "[" + std::to_string(i) + "]"
                                            : "." + std::to_string(b.id);
        if (a.id != b.id) return at + ": field " + std::to_string(a.id) + " instead";
        std::string below = difference(a, b);
        if (!below.empty()) return at + below;
    }
    if (got.children.size() != want.children.size())
        return ": " + std::to_string(got.children.size()) + " fields or elements, not " +
               std::to_string(want.children.size());
    return "";
}

#endif
