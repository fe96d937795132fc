// The products of a tile on the Hopper tensor cores: the only file that knows CuTe.
//
// A block has three warpgroups. One thread of the first keeps a ring of stages filled by bulk tensor copies; the two
// others multiply 64 rows each, straight from shared memory, with float32 accumulators. Blocks of a cluster share what
// they have in common: each copies a slice and sends it to all that need it.
#pragma once

#include <cuda.h>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cstdio>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>

#include "hopper_epilogues.h"
#include "hopper_split.h"

// For a first run on a new machine: a barrier that is waited for longer than this ends the kernel and says which it is.
#ifndef REPSIM_WATCHDOG_CYCLES
#define REPSIM_WATCHDOG_CYCLES 0
#endif

namespace repsim::cuda::hopper {

template <int kColumns_, int kStages_, int kClusterRows_, int kClusterColumns_>
struct TileShape {
  static constexpr int kRows = 128, kColumns = kColumns_, kDepth = 64, kStages = kStages_;
  static constexpr int kClusterRows = kClusterRows_, kClusterColumns = kClusterColumns_;
  static constexpr int kCluster = kClusterRows * kClusterColumns;
  using Place = ClusterPlace<kClusterRows, kClusterColumns>;
  static constexpr int kLeft = kRows * kDepth, kRight = kColumns * kDepth;  // elements of a stage
  static constexpr int kStageBytes = (kLeft + kRight) * 2;
  // Rows that one block copies of an operand that its cluster shares.
  static constexpr int kLeftSlice = kRows / kClusterColumns, kRightSlice = kColumns / kClusterRows;
  static_assert(kColumns % 64 == 0, "whole slices of an epilogue, shared by 128 threads");
  static_assert(kLeftSlice % 8 == 0 && kRightSlice % 8 == 0, "slices are whole swizzle atoms");
};

constexpr int kThreads = 384, kMultiplierWarps = 8;
constexpr int kLoaderRegisters = 24, kMultiplierRegisters = 240;  // of a thread, of 168 each at the start

template <class Shape>
struct Ring {
  alignas(1024) cute::bfloat16_t left[Shape::kStages][Shape::kLeft];
  alignas(1024) cute::bfloat16_t right[Shape::kStages][Shape::kRight];
  uint64_t full[Shape::kStages], empty[Shape::kStages];
};

using Full = cutlass::arch::ClusterTransactionBarrier;
using Empty = cutlass::arch::ClusterBarrier;

template <class Barrier>
__forceinline__ __device__ void wait_for(const uint64_t* barrier, uint32_t phase, const char* name, int stage) {
  constexpr int64_t kPatience = REPSIM_WATCHDOG_CYCLES;
  [[maybe_unused]] const int64_t begin = kPatience > 0 ? clock64() : 0;
  while (!Barrier::try_wait(barrier, phase)) {
    if constexpr (kPatience > 0)
      if (clock64() - begin > kPatience) {
        printf("block %d thread %d waits for %s[%d] to leave phase %u\n", static_cast<int>(blockIdx.x),
               static_cast<int>(threadIdx.x), name, stage, phase);
        __trap();
      }
  }
}

template <class Shape>
__device__ typename Shape::Place place_in_cluster() {
  return Shape::Place::of_rank(Shape::kCluster == 1 ? 0 : static_cast<int>(cute::block_rank_in_cluster()));
}

// The shared memory of a block, which a kernel declares aligned so. By all threads.
template <class Storage>
__device__ Storage& storage_in(uint8_t* raw) {
  if (cute::cast_smem_ptr_to_uint(raw) % 1024 != 0) __trap();  // the swizzle would be another
  return *reinterpret_cast<Storage*>(raw);
}

// By all threads; ends in a barrier of the whole cluster.
template <class Shape>
__device__ void open_ring(Ring<Shape>& ring) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      Full::init(&ring.full[stage], 1);
      Empty::init(&ring.empty[stage], kMultiplierWarps * Shape::Place::kSenders);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if constexpr (Shape::kCluster > 1) cute::cluster_sync();
}

// No block leaves while another may still write to it or signal it. By all threads, whole warps together.
template <class Shape>
__device__ void leave() {
  if constexpr (Shape::kCluster > 1) cute::cluster_sync();
}

// The walk of one warp, in shared memory: multipliers need the registers for sums, and the loader has few.
struct WarpWalk {
  Walk::Position at;
  int row, column;  // of the tile; row -1 at the end
};

// By whole warps; false where the walk has ended.
__device__ inline bool next_tile(WarpWalk& walk, const Schedule& schedule, int workers, int lane) {
  __syncwarp();  // all lanes have read where they were
  if (lane == 0) {
    Walk going_on(schedule, walk.at, workers);
    int row, column = 0;
    walk.row = going_on.next(row, column) ? row : -1;
    walk.column = column;
    walk.at = going_on.position();
  }
  __syncwarp();
  return walk.row >= 0;
}

// By one thread: brings the stages of one product of two operands, tile after tile.
template <class Shape>
class Loader {
 public:
  __device__ Loader(Ring<Shape>& ring, typename Shape::Place place) : ring_(ring), place_(place) {}

  // The tile of the cluster begins at (row, column).
  __device__ void load(const CUtensorMap* left, const CUtensorMap* right, const Products& products, int depth, int row,
                       int column) {
    row += place_.row * Shape::kRows + place_.column * Shape::kLeftSlice;
    column += place_.column * Shape::kColumns + place_.row * Shape::kRightSlice;
#pragma unroll 1
    for (int product = 0; product < products.count; ++product)
#pragma unroll 1
      for (int k = 0; k < depth; k += Shape::kDepth) {
        wait_for<Empty>(&ring_.empty[at_.stage], at_.phase ^ 1, "empty", at_.stage);
        Full::arrive_and_expect_tx(&ring_.full[at_.stage], Shape::kStageBytes);
        copy<Shape::kClusterColumns>(left, ring_.left[at_.stage] + place_.column * Shape::kLeftSlice * Shape::kDepth,
                                     place_.row_mask(), k, row, products.left[product]);
        copy<Shape::kClusterRows>(right, ring_.right[at_.stage] + place_.row * Shape::kRightSlice * Shape::kDepth,
                                  place_.column_mask(), k, column, products.right[product]);
        at_.advance(Shape::kStages);
      }
  }

 private:
  template <int kReceivers>
  __device__ void copy(const CUtensorMap* map, cute::bfloat16_t* to, uint16_t receivers, int k, int row, int part) {
    constexpr auto kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);
    if constexpr (kReceivers == 1)
      cute::SM90_TMA_LOAD_3D::copy(map, &ring_.full[at_.stage], kHint, to, k, row, part);
    else
      cute::SM90_TMA_LOAD_MULTICAST_3D::copy(map, &ring_.full[at_.stage], receivers, kHint, to, k, row, part);
  }

  Ring<Shape>& ring_;
  typename Shape::Place place_;
  RingPlace at_;
};

// All that the first warpgroup does: its first thread loads every tile of its cluster's walk.
template <class Shape, class Load>
__device__ void load_tiles(Ring<Shape>& ring, typename Shape::Place place, WarpWalk& walk, const Schedule& schedule,
                           int cluster, int clusters, Load load) {
  cutlass::arch::warpgroup_reg_dealloc<kLoaderRegisters>();
  if (threadIdx.x < 32) {
    Loader<Shape> loader(ring, place);
    if (threadIdx.x == 0) walk.at = Walk::start(cluster);
    while (next_tile(walk, schedule, clusters, static_cast<int>(threadIdx.x)))
      if (threadIdx.x == 0) load(loader);
  }
  __syncwarp();
  leave<Shape>();
}

// By the 256 threads of the consumers: products of the stages in the order in which the loader brings them.
template <class Shape>
class Multiplier {
  using Tile = cute::Shape<cute::Int<Shape::kRows>, cute::Int<Shape::kColumns>, cute::Int<Shape::kDepth>>;
  using Atom = decltype(cute::GMMA::ss_op_selector<cute::bfloat16_t, cute::bfloat16_t, float, Tile>());
  using Mma = decltype(cute::make_tiled_mma(Atom{}, cute::Layout<cute::Shape<cute::_2, cute::_1, cute::_1>>{}));
  template <int kRows>
  using Stages = decltype(cute::tile_to_shape(
      cute::GMMA::Layout_K_SW128_Atom<cute::bfloat16_t>{},
      cute::Shape<cute::Int<kRows>, cute::Int<Shape::kDepth>, cute::Int<Shape::kStages>>{}));

 public:
  using Accumulators =
      decltype(cute::partition_fragment_C(Mma{}, cute::Shape<cute::Int<Shape::kRows>, cute::Int<Shape::kColumns>>{}));
  static_assert(decltype(cute::size(Accumulators{}))::value == Shape::kColumns / 2);

  __device__ Multiplier(Ring<Shape>& ring, typename Shape::Place place, int thread)
      : ring_(ring), place_(place), thread_(thread) {}

  // Issues the products of one stage into `sums`, which begin at 0 where they are `fresh`. They may be touched once
  // `settle` has been called as often as stages were issued into them, and then `ready`.
  __forceinline__ __device__ void issue(Accumulators& sums, bool fresh) {
    Mma mma;
    const auto own = mma.get_thread_slice(thread_);
    const auto left = own.make_fragment_A(
        own.partition_A(cute::make_tensor(cute::make_smem_ptr(ring_.left[0]), Stages<Shape::kRows>{})));
    const auto right = own.make_fragment_B(
        own.partition_B(cute::make_tensor(cute::make_smem_ptr(ring_.right[0]), Stages<Shape::kColumns>{})));
    mma.accumulate_ = fresh ? cute::GMMA::ScaleOut::Zero : cute::GMMA::ScaleOut::One;
    wait_for<Full>(&ring_.full[at_.stage], at_.phase, "full", at_.stage);
    cute::warpgroup_fence_operand(sums);
    cute::warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < decltype(cute::size<2>(left))::value; ++k) {
      cute::gemm(mma, left(cute::_, cute::_, k, at_.stage), right(cute::_, cute::_, k, at_.stage), sums);
      mma.accumulate_ = cute::GMMA::ScaleOut::One;
    }
    cute::warpgroup_commit_batch();
    at_.advance(Shape::kStages);
  }

  // Waits until no more than kUnderWay of the issued stages are under way, and gives back the oldest that was not.
  template <int kUnderWay>
  __forceinline__ __device__ void settle() {
    cute::warpgroup_wait<kUnderWay>();
    release(at_.back(1 + kUnderWay, Shape::kStages));
  }

  // Keeps the compiler from reading `sums` any earlier.
  __forceinline__ __device__ static void ready(Accumulators& sums) { cute::warpgroup_fence_operand(sums); }

 private:
  // Every warp tells every block that sends it data.
  __forceinline__ __device__ void release(int stage) {
    const int lane = thread_ % 32;
    if constexpr (Shape::kCluster == 1) {
      if (lane == 0) Empty::arrive(&ring_.empty[stage]);
    } else {
      Empty::arrive(&ring_.empty[stage], lane, place_.hears(lane));
    }
  }

  Ring<Shape>& ring_;
  typename Shape::Place place_;
  int thread_;
  RingPlace at_;
};

// One thread of a consumer, as the epilogues know it.
struct DeviceLane {
  int index;  // in the warpgroup
  int group;  // of the two consumers

  __device__ int thread() const { return index; }
  __device__ int lane() const { return index & 31; }
  __device__ float exchange(float value, int mask) const { return __shfl_xor_sync(~0u, value, mask); }
  __device__ int64_t exchange(int64_t value, int mask) const {
    return __shfl_xor_sync(~0u, static_cast<long long>(value), mask);
  }
  __device__ float power_of_two(float x) const {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
  }
  __device__ int64_t round(float x) const { return __float2ll_rn(x); }
  __device__ void add(int64_t* total, int64_t term) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(total), static_cast<unsigned long long>(term));
  }
  __device__ int32_t take(int32_t* count) const { return atomicAdd(count, 1); }
  __device__ bool any(bool one) const { return __any_sync(~0u, one); }
  __device__ uint32_t ballot(bool one) const { return __ballot_sync(~0u, one); }
  __device__ int ones(uint32_t bits) const { return __popc(bits); }
  // Copies a float from global to shared memory, or 0 where there is none; it is there after `copied`.
  __device__ void copy(float* to, const float* from, bool exists) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(cute::cast_smem_ptr_to_uint(to)), "l"(from),
                 "r"(exists ? 4 : 0)
                 : "memory");
  }
  __device__ void copied() const { asm volatile("cp.async.wait_all;" ::: "memory"); }
  __device__ void meet() const { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }
  __device__ void meet_warp() const { __syncwarp(); }
};

}  // namespace repsim::cuda::hopper
