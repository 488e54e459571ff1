// Model files as the "Parquet V2 Extended" writers make them: one file per tensor, one row,
// ZSTD, every column but booleans dictionary-encoded, a byte for each code, groups of rows.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { load } from './lib.mjs'
import { matrixOf } from './model.mjs'

const arrow = await load('apache-arrow')
const parquet = await load('parquet-wasm')

const list = item => new arrow.List(new arrow.Field('item', item, false))

/** [column, Arrow type, nullable, value of a layer]; the order is the schema's. */
const baseColumns = [
  ['layer_name', new arrow.Utf8(), false, layer => layer.name],
  ['shape', list(new arrow.Uint64()), false, layer => layer.shape.map(BigInt)],
  ['dtype', new arrow.Utf8(), false, () => 'float32'],
  ['data', new arrow.LargeBinary(), false, layer => layer.data],
  ['num_params', new arrow.Uint64(), false, layer => BigInt(countOf(layer.shape))],
  ['quant_type', new arrow.Utf8(), false, layer => layer.quantType],
  ['scales', list(new arrow.Float32()), false, layer => layer.scales],
  ['zero_points', list(new arrow.Float32()), false, layer => layer.zeroPoints],
  ['quant_axis', new arrow.Uint64(), true, () => null],
  ['group_size', new arrow.Uint64(), true, layer => layer.groupSize && BigInt(layer.groupSize)]
]

const diffusionColumns = [
  ['is_diffusion_model', new arrow.Bool(), false, () => true],
  ['modality', new arrow.Utf8(), true, layer => layer.diffusion.modality]
]

// Such a column exists only in files of layers that have the metadata.
const jsonColumns = ['time_aware_quant_json', 'spatial_quant_json', 'activation_stats_json']

function columnsOf(layer) {
  if (!layer.diffusion) return baseColumns
  const json = jsonColumns.filter(name => layer.diffusion[name]).map(name =>
    [name, new arrow.Utf8(), true, () => JSON.stringify(layer.diffusion[name])])
  return [...baseColumns, ...diffusionColumns, ...json]
}

export const countOf = shape => shape.reduce((a, b) => a * b, 1)

/** The layers as one Arrow table; their columns must be the same. */
function tableOf(layers) {
  const columns = columnsOf(layers[0])
  const schema = new arrow.Schema(columns.map(([name, type, nullable]) =>
    new arrow.Field(name, type, nullable)))
  const vectors = columns.map(([name, type, , valueOf]) =>
    [name, arrow.vectorFromArray(layers.map(layer => valueOf(layer) ?? null), type)])
  return new arrow.Table(schema, Object.fromEntries(vectors))
}

/** Writes the layers, a row each, with the settings of the reference system. */
export function writeArrowRs(path, layers, { writerVersion = 'V1' } = {}) {
  const stream = arrow.tableToIPC(tableOf(layers), 'stream')
  const properties = new parquet.WriterPropertiesBuilder()
    .setCompression(parquet.Compression.ZSTD)
    .setStatisticsEnabled(parquet.EnabledStatistics.None)
    .setWriterVersion(parquet.WriterVersion[writerVersion])
    .build()
  writeFileSync(path, parquet.writeParquet(parquet.Table.fromIPCStream(stream), properties))
}

/** File stem of a layer in a model directory. */
export const stemOf = name => name.replace(/[/\\:*?"<>|.]/g, '_')

/** Writes a model directory: a file for each layer and a metadata.json beside them. */
export function writeDirectory(dir, layers) {
  for (const layer of layers) {
    const stem = join(dir, stemOf(layer.name))
    writeArrowRs(`${stem}.parquet`, [layer])
    if (layer.bin) writeFileSync(`${stem}.bin`, layer.bin)
  }
  writeFileSync(join(dir, 'metadata.json'), JSON.stringify({
    modality: 'image', format: 'parquet_v2_extended', source: 'safetensors', architecture: 'image'
  }))
}

/**
 * A layer with codes for each value of `weights`: a byte each, 2^bits - 1 levels, one scale for
 * `groupRows` matrix rows, or for the tensor when absent.
 */
export function quantizedLayer(name, shape, weights, bits, groupRows) {
  const { rows, cols } = matrixOf(shape)
  const step = (groupRows ?? rows) * cols
  const layer = {
    name, shape, quantType: `int${bits}`, groupSize: groupRows,
    data: new Uint8Array(weights.length), scales: [], zeroPoints: []
  }
  for (let from = 0; from < weights.length; from += step) {
    const group = weights.subarray(from, from + step)
    const { scale, zeroPoint } = rangeParameters(group, 2 ** bits - 1)
    layer.scales.push(scale)
    layer.zeroPoints.push(zeroPoint)
    group.forEach((weight, i) => {
      layer.data[from + i] = Math.min(255, Math.max(0, Math.round(weight / scale + zeroPoint)))
    })
  }
  return layer
}

function rangeParameters(values, qmax) {
  const low = values.reduce((a, b) => Math.min(a, b))
  const high = values.reduce((a, b) => Math.max(a, b))
  const scale = Math.fround((high - low) / qmax)
  return { scale, zeroPoint: Math.fround(-low / scale) }
}

/** A layer that is not quantized: raw float32, in the file or (`beside`) in a .bin file. */
export function rawLayer(name, shape, weights, beside = false) {
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength)
  return {
    name, shape, quantType: 'none', scales: [], zeroPoints: [],
    data: beside ? new Uint8Array(0) : bytes, bin: beside ? bytes : undefined
  }
}
