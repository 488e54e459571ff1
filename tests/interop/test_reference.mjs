// Model files of other writers: the reference system's, written by arrow-rs, and the same
// tensors as DuckDB and polars write them.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expectAgreement, expectDequantized } from './checks.mjs'
import { aq, aqJson, load, same, scratchDir, test, writeSafetensors } from './lib.mjs'
import { columnTypes } from './model.mjs'
import { quoted, readers, sql } from './readers.mjs'
import {
  countOf, quantizedLayer, rawLayer, stemOf, writeArrowRs, writeDirectory
} from './reference.mjs'

const timeAware = {
  enabled: true,
  num_time_groups: 2,
  time_group_params: [
    { time_range: [0, 499], scale: 0.02, zero_point: 1.5, group_size: 128 },
    { time_range: [500, 999], scale: 0.01, zero_point: 0, group_size: 128 }
  ]
}
const spatial = {
  enabled: true, channel_equalization: false, activation_smoothing: false, equalization_scales: []
}
const stats = { mean: [0.5], std: [1.25], min: [-1], max: [2] }

const diffusion = (modality, json = {}) => layer => ({ ...layer, diffusion: { modality, ...json } })

// Over the size at which arrow-rs gives up a dictionary, if another value is in it.
const larger = 'larger than a dictionary page'

const base = [
  quantized('model.layers.0.q_proj.weight', [12, 40], 8, 4),
  quantized('model.layers.0.k_proj.weight', [13, 40], 4, 4),
  quantized('model.layers.0.v_proj.weight', [13, 7], 2, 128),
  quantized('conv/in:weight', [5, 3, 3, 3], 8, 2),
  quantized('whole', [6, 50], 4),
  quantized('whole, 8 bits', [50, 6], 8),
  quantized('vector', [70], 8, 32),
  quantized('größe.重み', [3, 8], 2, 1),
  quantized(larger, [1100, 1000], 8, 128),
  rawLayer('norm.weight', [9], weights(9)),
  rawLayer('embedding', [4, 3, 2], weights(24), true),
  rawLayer('scalar', [], weights(1)),
  rawLayer('none', [0, 4], weights(0))
]

const extended = [
  diffusion('image')(quantized('plain', [8, 8], 8, 4)),
  diffusion('text', { time_aware_quant_json: timeAware })(quantized('time', [8, 8], 4, 4)),
  diffusion('audio', { spatial_quant_json: spatial })(quantized('space', [8, 8], 2, 4)),
  diffusion(null, { activation_stats_json: stats })(quantized('stats', [8, 8], 8)),
  diffusion('code', {
    time_aware_quant_json: timeAware, spatial_quant_json: spatial, activation_stats_json: stats
  })(quantized('all', [8, 8], 8, 4)),
  diffusion('image')(rawLayer('bias', [8], weights(8), true))
]

// ---- The layers -----------------------------------------------------------------------

function weights(count) {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * i + count) * (1 + i % 5))
}

function quantized(name, shape, bits, groupRows) {
  return quantizedLayer(name, shape, weights(countOf(shape)), bits, groupRows)
}

/** A layer in the names of a model file's columns, as checks.mjs takes tensors. */
function tensorOf(layer) {
  return {
    layer_name: layer.name,
    shape: layer.shape,
    dtype: 'float32',
    data: layer.bin ?? layer.data,
    bit_width: layer.quantType === 'none' ? 0 : Number(layer.quantType.slice(3)),
    group_size: layer.groupSize,
    scales: layer.scales,
    zero_points: layer.zeroPoints
  }
}

// ---- A directory with a file for each tensor --------------------------------------------

async function testDirectory(title, layers) {
  const dir = scratchDir(`reference ${title}`)
  const out = join(scratchDir(`reference ${title} out`), 'model.safetensors')
  writeDirectory(dir, layers)
  await test(`all readers agree on the ${title} files`, async () => {
    for (const { name } of layers) {
      await expectAgreement(join(dir, `${stemOf(name)}.parquet`), columnTypes)
    }
  })
  await test(`aq inspects a ${title} directory`, () => {
    const { format, tensors } = aqJson(['inspect', dir])
    same(format, 'directory', 'format')
    same(tensors.map(summary), layers.map(expectedSummary).sort(byName), 'tensors')
  })
  await test(`aq verifies the ${title} files`, () => {
    for (const { name } of layers) aq(['verify', join(dir, `${stemOf(name)}.parquet`)])
  })
  await test(`aq dequantizes a ${title} directory`, () =>
    expectDequantized(dir, out, layers.map(tensorOf)))
}

function summary({ name, shape, dtype, num_params, quant_type, bit_width, data_bytes }) {
  return { name, shape, dtype, num_params, quant_type, bit_width, data_bytes }
}

function expectedSummary(layer) {
  const { layer_name: name, shape, dtype, data, bit_width } = tensorOf(layer)
  return {
    name, shape, dtype, num_params: countOf(shape), quant_type: layer.quantType, bit_width,
    data_bytes: data.length
  }
}

function byName(a, b) {
  return Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))
}

// ---- The same tensors by other writers ---------------------------------------------------

async function testOtherWriters(title, layers) {
  for (const [name, rewrite] of Object.entries(writers)) {
    await test(`aq reads ${title} files of ${name}`, async () => {
      const from = scratchDir('reference from')
      const to = scratchDir(`reference ${title} ${name}`)
      writeDirectory(from, layers)
      for (const layer of layers) {
        const file = `${stemOf(layer.name)}.parquet`
        await rewrite(join(from, file), join(to, file))
        if (layer.bin) writeFileSync(join(to, `${stemOf(layer.name)}.bin`), layer.bin)
        aq(['verify', join(to, file)])
      }
      expectDequantized(to, join(from, 'out.safetensors'), layers.map(tensorOf))
    })
  }
}

const writers = {
  'DuckDB (SNAPPY)': duckdbWriter('snappy'),
  'DuckDB (ZSTD)': duckdbWriter('zstd'),
  'DuckDB (uncompressed)': duckdbWriter('uncompressed'),
  'DuckDB (nulls for what is empty)': duckdbWriter('snappy', nullsForEmpty),
  'DuckDB (other columns, another order)': duckdbWriter('snappy', otherColumns),
  'polars (ZSTD)': polarsWriter('zstd'),
  'polars (SNAPPY)': polarsWriter('snappy'),
  'polars (uncompressed)': polarsWriter('uncompressed')
}

function duckdbWriter(codec, query = file => `SELECT * FROM ${file}`) {
  return (from, to) => sql(
    `COPY (${query(quoted(from))}) TO ${quoted(to)} (FORMAT parquet, COMPRESSION ${codec})`)
}

function nullsForEmpty(file) {
  return `SELECT * REPLACE (nullif(data, ''::BLOB) AS data, nullif(scales, []) AS scales,
    nullif(zero_points, []) AS zero_points) FROM ${file}`
}

function otherColumns(file) {
  return `SELECT {'a': 1, 'b': [2]} AS struct, data, zero_points, scales, 'x' AS "größe", shape,
    group_size, layer_name, quant_type, [[1], []] AS lists, dtype FROM ${file}`
}

function polarsWriter(compression) {
  return async (from, to) => {
    const { default: polars } = await load('nodejs-polars')
    polars.readParquet(from).writeParquet(to, { compression })
  }
}

// ---- Many tensors in one file -------------------------------------------------------------

async function testOneFile() {
  const dir = scratchDir('reference one file')
  const out = join(dir, 'out.safetensors')
  const inFile = base.filter(layer => !layer.bin)
  // With V2 pages, what is in no dictionary is DELTA_BYTE_ARRAY: the next test.
  const small = inFile.filter(layer => layer.name !== larger)
  for (const [writerVersion, layers] of [['V1', inFile], ['V2', small]]) {
    await test(`aq reads many tensors in a file, arrow-rs, pages ${writerVersion}`, async () => {
      const path = join(dir, `${writerVersion}.parquet`)
      writeArrowRs(path, layers, { writerVersion })
      await expectAgreement(path, columnTypes)
      aq(['verify', path])
      expectDequantized(path, out, layers.map(tensorOf))
    })
  }
  await test('aq reads blobs in DELTA_BYTE_ARRAY, or names it as what it does not read', () => {
    const path = join(dir, 'delta.parquet')
    writeArrowRs(path, inFile, { writerVersion: 'V2' })
    try {
      expectDequantized(path, out, inFile.map(tensorOf))
    } catch (error) {
      if (!/encoding DELTA_BYTE_ARRAY .*not supported/.test(error.message)) throw error
    }
  })
  await test('aq reads many tensors in a file, DuckDB, not all with the same columns', async () => {
    const parts = scratchDir('reference parts')
    const path = join(dir, 'duckdb.parquet')
    const layers = [...base, ...extended].filter(layer => !layer.bin)
    writeDirectory(parts, layers)
    const union = `read_parquet(${quoted(join(parts, '*.parquet'))}, union_by_name = true)`
    await sql(`COPY (SELECT * FROM ${union}) TO ${quoted(path)} (FORMAT parquet)`)
    await expectAgreement(path, columnTypes)
    aq(['verify', path])
    expectDequantized(path, out, layers.map(tensorOf))
  })
}

// ---- From the reference system's files to ours --------------------------------------------

async function testQuantize() {
  await test('aq quantizes a directory of raw tensors as it does a safetensors file', async () => {
    const dir = scratchDir('reference raw')
    const out = scratchDir('reference raw out')
    const layers = [1, 2, 3].map(i =>
      rawLayer(`layer.${i}`, [8 * i, 130], weights(8 * i * 130), i === 2))
    const safetensors = join(out, 'in.safetensors')
    writeDirectory(dir, layers)
    writeSafetensors(safetensors, layers.map(({ name, shape, data, bin }) =>
      ({ name, shape, dtype: 'F32', data: bin ?? data })))
    const results = []
    for (const input of [dir, safetensors]) {
      const path = join(out, `${results.length}.parquet`)
      aq(['quantize', input, path, '--bits', '4', '--group-size', '32'])
      await expectAgreement(path, columnTypes)
      results.push(await readers[0].read(path))
    }
    for (const column of ['layer_name', 'shape', 'data', 'scales', 'zero_points', 'cosine']) {
      same(results[0][column].map(comparable), results[1][column].map(comparable), column)
    }
  })
}

function comparable(value) {
  return value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value
}

// ---- Files that must not pass -------------------------------------------------------------

async function testRefusals() {
  const layer = quantized('broken', [12, 40], 8, 4)
  const raw = rawLayer('broken', [4], weights(4), true)
  const refusals = [
    ['codes that were never written', { ...layer, data: new Uint8Array(0) }, 1],
    ['fewer codes than the shape has', { ...layer, data: layer.data.subarray(1) }, 1],
    ['fewer scales than groups', { ...layer, scales: layer.scales.slice(1) }, 1],
    ['fewer zero points than scales', { ...layer, zeroPoints: layer.zeroPoints.slice(1) }, 1],
    ['the infinite zero point of a constant group', { ...layer, zeroPoints: [0, 0, -Infinity] }, 1],
    ['a .bin file that is too short', { ...raw, bin: raw.bin.subarray(4) }, 1],
    ['a .bin file that is missing', { ...raw, bin: undefined }, 2]
  ]
  for (const [title, broken, status] of refusals) {
    await test(`aq refuses ${title}`, () => {
      const dir = scratchDir('reference refused')
      const path = join(dir, 'broken.parquet')
      writeDirectory(dir, [broken])
      aq(['verify', path], status)
      aq(['dequantize', dir, join(dir, 'out.safetensors')], 2)
    })
  }
  await test('aq refuses two files with one tensor name', () => {
    const dir = scratchDir('reference refused')
    writeDirectory(dir, [layer])
    writeArrowRs(join(dir, 'other.parquet'), [layer])
    aq(['inspect', dir], 2)
  })
}

// ---- All of it ------------------------------------------------------------------------------

for (const [title, layers] of [['V2', base], ['V2 Extended', extended]]) {
  await testDirectory(title, layers)
  await testOtherWriters(title, layers)
}
await testOneFile()
await testQuantize()
await testRefusals()
