// What launching a Hopper kernel takes: tensor maps, the grid, and errors with names.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

#include "hopper.h"
#include "hopper_schedule.h"

namespace repsim::cuda::hopper {

void check(cudaError_t error, const char* what);

// Boxes of `box_rows` rows and 64 features of one part, swizzled by 128 bytes; zero outside of the rows. Written in
// place: the driver wants maps aligned to 64 bytes, which GCC does not heed where a function returns one.
void encode_tensor_map(CUtensorMap& map, const SplitRows& rows, int parts, int box_rows);

// The supertiles of about `tiles` cluster tiles.
Schedule schedule(int64_t rows, int64_t columns, int tile_rows, int tile_columns, bool triangle, int tiles);

// How many clusters of the size run at once on the current device.
int resident_clusters(const void* kernel, int cluster, int threads, int shared_bytes);

// Launches as many clusters as run at once, each to walk over its tiles.
void launch(const void* kernel, int cluster, int threads, int shared_bytes, void* parameters, void* stream,
            const char* name);

}  // namespace repsim::cuda::hopper
