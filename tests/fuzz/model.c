/* model.c - the input is a model file, Parquet by its seeds. */
#include "model.h"
#include "mutate.h"

static void fuzz_model(const uint8_t *data, size_t size) { fuzz_model_bytes(data, size); }
