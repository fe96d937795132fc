// The tiles that are compiled. bench/hopper.py compiles others: columns, stages, rows and columns of the cluster, and
// how many tiles of a block make a supertile, about as many as run at once.
#pragma once

#include "hopper_mainloop.h"

#ifndef REPSIM_SUMS_COLUMNS
#define REPSIM_SUMS_COLUMNS 192
#define REPSIM_SUMS_STAGES 4
#define REPSIM_SUMS_CLUSTER_ROWS 2
#define REPSIM_SUMS_CLUSTER_COLUMNS 1
#define REPSIM_SUMS_SUPERTILE 160
#endif
#ifndef REPSIM_SELECT_COLUMNS
#define REPSIM_SELECT_COLUMNS 256
#define REPSIM_SELECT_STAGES 4
#define REPSIM_SELECT_CLUSTER_ROWS 2
#define REPSIM_SELECT_CLUSTER_COLUMNS 1
#define REPSIM_SELECT_SUPERTILE 160
#endif

namespace repsim::cuda::hopper {

using SumsShape =
    TileShape<REPSIM_SUMS_COLUMNS, REPSIM_SUMS_STAGES, REPSIM_SUMS_CLUSTER_ROWS, REPSIM_SUMS_CLUSTER_COLUMNS>;
using SelectShape =
    TileShape<REPSIM_SELECT_COLUMNS, REPSIM_SELECT_STAGES, REPSIM_SELECT_CLUSTER_ROWS, REPSIM_SELECT_CLUSTER_COLUMNS>;
constexpr int kSumsSupertile = REPSIM_SUMS_SUPERTILE / SumsShape::kCluster;
constexpr int kSelectSupertile = REPSIM_SELECT_SUPERTILE / SelectShape::kCluster;

}  // namespace repsim::cuda::hopper
