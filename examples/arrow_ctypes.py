#!/usr/bin/env python3
"""Hands a table of weights to arrowquant.h through the Arrow C Data Interface and reads the
quantized table that comes back, with nothing but Python's standard library: ctypes knows
the two structs. With pyarrow, if there is one, the same with a RecordBatch. No weight is
copied on the way in, no code on the way out.

Build a shared library from the header, once:

  cc -O2 -shared -fPIC -x c -DARROWQUANT_IMPLEMENTATION arrowquant.h \\
      -o libarrowquant.so -pthread -lm

  python3 arrow_ctypes.py [./libarrowquant.so]
"""
import array
import ctypes
import sys
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, byref, c_char, c_char_p
from ctypes import c_float, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32
from ctypes import c_void_p

# --- The two structs of the interface, and those of arrowquant.h that are used here -------


class ArrowSchema(Structure):
    pass


class ArrowArray(Structure):
    pass


ReleaseSchema = CFUNCTYPE(None, POINTER(ArrowSchema))
ReleaseArray = CFUNCTYPE(None, POINTER(ArrowArray))
ArrowSchema._fields_ = [
    ('format', c_char_p), ('name', c_char_p), ('metadata', c_void_p), ('flags', c_int64),
    ('n_children', c_int64), ('children', POINTER(POINTER(ArrowSchema))),
    ('dictionary', POINTER(ArrowSchema)), ('release', ReleaseSchema),
    ('private_data', c_void_p)]
ArrowArray._fields_ = [
    ('length', c_int64), ('null_count', c_int64), ('offset', c_int64),
    ('n_buffers', c_int64), ('n_children', c_int64), ('buffers', POINTER(c_void_p)),
    ('children', POINTER(POINTER(ArrowArray))), ('dictionary', POINTER(ArrowArray)),
    ('release', ReleaseArray), ('private_data', c_void_p)]


class QuantOptions(Structure):
    _fields_ = [('bits', c_uint32), ('group_size', c_size_t)]


class ArrowOptions(Structure):
    """aq_arrow_options begins with the aq_quant_options; all that is 0 is the default."""
    _fields_ = [('quant', QuantOptions), ('rest', c_uint8 * 496)]


class Error(Structure):
    _fields_ = [('status', c_int), ('os_errno', c_int), ('file_offset', c_int64),
                ('row_group', c_int32), ('column', c_int32), ('name', c_char * 160),
                ('message', c_char * 512), ('what_bytes', c_uint16),
                ('advice_at', c_uint16)]


# --- Python to Arrow -----------------------------------------------------------------------


@ReleaseSchema
def release_schema(schema):
    schema[0].release = ReleaseSchema()


@ReleaseArray
def release_array(a):
    a[0].release = ReleaseArray()


class Exported:
    """An Arrow array of Python's buffers, and its schema. Both borrow from this object: it
    stays until the call that they are handed to has returned."""

    def __init__(self, fmt, name, length, buffers=(), children=()):
        self.kept = [buffers, children]
        n = len(buffers) + 1
        self.buffers = (c_void_p * n)(None, *[b.buffer_info()[0] for b in buffers])
        self.schemas = (POINTER(ArrowSchema) * len(children))(
            *[ctypes.pointer(c.schema) for c in children])
        self.arrays = (POINTER(ArrowArray) * len(children))(
            *[ctypes.pointer(c.array) for c in children])
        self.schema = ArrowSchema(format=fmt, name=name, n_children=len(children),
                                  children=self.schemas, release=release_schema)
        self.array = ArrowArray(length=length, n_buffers=n, n_children=len(children),
                                buffers=self.buffers, children=self.arrays,
                                release=release_array)


def offsets_of(lengths):
    offsets = array.array('i', [0])
    for n in lengths:
        offsets.append(offsets[-1] + n)
    return offsets


def export_strings(name, texts):
    encoded = [text.encode() for text in texts]
    return Exported(b'u', name, len(texts), [offsets_of(map(len, encoded)),
                                             array.array('B', b''.join(encoded))])


def export_lists(name, lists, fmt, code):
    joined = array.array(code)
    for values in lists:
        joined.extend(values)
    item = Exported(fmt, b'item', len(joined), [joined])
    return Exported(b'+l', name, len(lists), [offsets_of(map(len, lists))], [item])


def export_table(layers):
    """layers: (name, array('f'), shape) of each."""
    names, weights, shapes = zip(*layers)
    return Exported(b'+s', b'', len(layers), [], [
        export_strings(b'layer_name', names),
        export_lists(b'weights', weights, b'f', 'f'),
        export_lists(b'shape', [array.array('q', s) for s in shapes], b'l', 'q')])


# --- Arrow to Python -----------------------------------------------------------------------

# Formats of numbers; the second is that of memoryview.
NUMBERS = {b'C': (c_uint8, 'B'), b'i': (c_int32, 'i'), b'l': (c_int64, 'q'),
           b'L': (ctypes.c_uint64, 'Q'), b'f': (c_float, 'f'), b'g': (ctypes.c_double, 'd')}
OFFSETS = {b'u': c_int32, b'z': c_int32, b'+l': c_int32,
           b'U': c_int64, b'Z': c_int64, b'+L': c_int64}


def is_null(a, i):
    bits = a.buffers[0]
    at = a.offset + i
    return bool(bits) and not c_uint8.from_address(bits + at // 8).value >> at % 8 & 1


def value(schema, a, i):
    """Element i: a number, bytes, text, or a view of numbers that lives as long as a."""
    if is_null(a, i):
        return None
    if schema.format in NUMBERS:
        number = NUMBERS[schema.format][0]
        at = a.buffers[1] + (a.offset + i) * ctypes.sizeof(number)
        return number.from_address(at).value
    wide = OFFSETS[schema.format]
    begin, end = (wide * 2).from_address(a.buffers[1] +
                                         (a.offset + i) * ctypes.sizeof(wide))
    if schema.format[0:1] == b'+':
        child = a.children[0][0]
        number, code = NUMBERS[schema.children[0][0].format]
        if end == begin:
            return memoryview(b'')
        at = child.buffers[1] + (child.offset + begin) * ctypes.sizeof(number)
        return memoryview((number * (end - begin)).from_address(at)).cast('B').cast(code)
    data = ctypes.string_at(a.buffers[2] + begin, end - begin) if end > begin else b''
    return data.decode() if schema.format in (b'u', b'U') else data


class Table:
    """A table that the library filled; released with the object."""

    def __init__(self):
        self.schema, self.array = ArrowSchema(), ArrowArray()

    def column(self, name):
        for i in range(self.schema.n_children):
            schema = self.schema.children[i][0]
            if schema.name == name.encode():
                a = self.array.children[i][0]
                return [value(schema, a, k) for k in range(a.length)]
        raise KeyError(name)

    def __del__(self):
        for part in (self.schema, self.array):
            if part.release:
                part.release(byref(part))


# --- The library ---------------------------------------------------------------------------


class ArrowQuant:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)

    def call(self, name, schema, a, options=None):
        result, error = Table(), Error()
        status = getattr(self.library, name)(
            byref(schema), byref(a), byref(options) if options else None,
            byref(result.schema), byref(result.array), byref(error))
        if status != 0:
            raise ValueError(error.message.decode())
        return result

    def quantize(self, schema, a, bits=0, group_size=0):
        options = ArrowOptions(quant=QuantOptions(bits, group_size))
        return self.call('aq_quantize_arrow', schema, a, options)

    def dequantize(self, table):
        return self.call('aq_dequantize_arrow', table.schema, table.array)


def with_pyarrow(aq, layers):
    try:
        import pyarrow
    except ImportError:
        print('no pyarrow here')
        return
    names, weights, shapes = zip(*layers)
    batch = pyarrow.RecordBatch.from_arrays(
        [pyarrow.array(names),
         pyarrow.array([list(w) for w in weights], pyarrow.list_(pyarrow.float32())),
         pyarrow.array(shapes, pyarrow.list_(pyarrow.int64()))],
        ['layer_name', 'weights', 'shape'])
    schema, a = ArrowSchema(), ArrowArray()
    batch._export_to_c(addressof(a), addressof(schema))
    try:
        table = aq.quantize(schema, a, bits=4, group_size=32)
    finally:
        schema.release(byref(schema))
        a.release(byref(a))
    # pyarrow takes both: the release callbacks are then its own to call.
    quantized = pyarrow.RecordBatch._import_from_c(addressof(table.array),
                                                   addressof(table.schema))
    quantized.validate(full=True)
    print('pyarrow:', quantized.num_rows, 'rows,', ', '.join(quantized.schema.names[:6]))


def main():
    aq = ArrowQuant(sys.argv[1] if len(sys.argv) > 1 else './libarrowquant.so')
    layers = [
        ('encoder.weight',
         array.array('f', [(i * 37 % 101) / 50 - 1 for i in range(64 * 128)]), (64, 128)),
        ('encoder.bias', array.array('f', [i / 64 for i in range(64)]), (64,)),
        ('decoder.weight',
         array.array('f', [(i * 53 % 211) / 100 - 1 for i in range(32 * 64)]), (32, 64))]

    table = export_table(layers)
    quantized = aq.quantize(table.schema, table.array, bits=4, group_size=32)
    columns = ('layer_name', 'bit_width', 'shape', 'quantized_data', 'scales', 'cosine')
    for name, bits, shape, codes, scales, cosine in zip(*map(quantized.column, columns)):
        print(f'{name:15} {bits} bits, shape {list(shape)}, {len(codes)} bytes of codes, '
              f'{len(scales)} groups, cosine {cosine:.4f}')

    back = aq.dequantize(quantized)
    for (name, weights, _), values in zip(layers, back.column('weights')):
        worst = max(abs(a - b) for a, b in zip(weights, values))
        print(f'{name:15} {len(values)} values back, none off by over {worst:.3f}')

    layers[1][1][5] = float('nan')
    table = export_table(layers)
    try:
        aq.quantize(table.schema, table.array)
    except ValueError as error:
        print(error)
    layers[1][1][5] = 0.5
    with_pyarrow(aq, layers)


if __name__ == '__main__':
    main()
