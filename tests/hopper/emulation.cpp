// The Hopper kernels without a GPU: their own schedule, ring arithmetic and epilogues, with 128 fibers for the threads
// of a warpgroup and products that the test computed. Functions for ctypes.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "bounds.h"
#include "cuda/hopper.h"
#include "cuda/hopper_epilogues.h"
#include "cuda/hopper_schedule.h"
#include "cuda/hopper_split.h"
#include "fixed_point.h"

namespace {

using namespace repsim;
using namespace repsim::cuda::hopper;
namespace hopper = repsim::cuda::hopper;

// Runs `count` bodies in turns: a body gives up its turn where it waits for others.
class Fibers {
 public:
  explicit Fibers(int count) : contexts_(count), stacks_(count), done_(count) {}

  void run(const std::function<void(int)>& body) {
    body_ = &body;
    for (int f = 0; f < size(); ++f) {
      stacks_[f].resize(64 << 10);
      done_[f] = false;
      getcontext(&contexts_[f]);
      contexts_[f].uc_stack.ss_sp = stacks_[f].data();
      contexts_[f].uc_stack.ss_size = stacks_[f].size();
      contexts_[f].uc_link = &main_;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&contexts_[f], reinterpret_cast<void (*)()>(&Fibers::enter), 3, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self), f);
    }
    for (bool any = true; any;) {
      any = false;
      for (current_ = 0; current_ < size(); ++current_)
        if (!done_[current_]) {
          any = true;
          swapcontext(&main_, &contexts_[current_]);
        }
    }
  }
  void give_up_turn() {
    const int self = current_;
    swapcontext(&contexts_[self], &main_);
  }
  int size() const { return static_cast<int>(contexts_.size()); }

 private:
  static void enter(unsigned high, unsigned low, int f) {
    auto* self = reinterpret_cast<Fibers*>(static_cast<uintptr_t>(high) << 32 | low);
    (*self->body_)(f);
    self->done_[f] = true;
  }
  const std::function<void(int)>* body_ = nullptr;
  ucontext_t main_;
  std::vector<ucontext_t> contexts_;
  std::vector<std::vector<char>> stacks_;
  std::vector<bool> done_;
  int current_ = 0;
};

// Passed when all of `count` have come.
struct Gate {
  int count, come = 0, round = 0;
  void pass(Fibers& fibers) {
    const int own = round;
    if (++come == count) {
      come = 0;
      ++round;
    }
    while (round == own) fibers.give_up_turn();
  }
};

struct Group {
  Fibers fibers{kGroupThreads};
  Gate all{kGroupThreads};
  Gate warps[4] = {{32}, {32}, {32}, {32}};
  uint64_t exchanged[kGroupThreads];
};

// A thread of the warpgroup, with the names of DeviceLane.
struct HostLane {
  int index;
  Group& group;

  int thread() const { return index; }
  int lane() const { return index % 32; }
  template <class T>
  T exchange(T value, int mask) const {
    std::memcpy(&group.exchanged[index], &value, sizeof value);
    meet_warp();
    T other;
    std::memcpy(&other, &group.exchanged[index ^ mask], sizeof other);
    meet_warp();
    return other;
  }
  float power_of_two(float x) const { return std::exp2(x); }
  int64_t round(float x) const { return std::llrint(x); }
  void add(int64_t* total, int64_t term) const { *total += term; }
  int32_t take(int32_t* count) const { return (*count)++; }
  uint32_t ballot(bool one) const {
    group.exchanged[index] = one;
    meet_warp();
    uint32_t all = 0;
    for (int l = 0; l < 32; ++l) all |= static_cast<uint32_t>(group.exchanged[index / 32 * 32 + l]) << l;
    meet_warp();
    return all;
  }
  bool any(bool one) const { return ballot(one) != 0; }
  int ones(uint32_t bits) const { return __builtin_popcount(bits); }
  void meet() const { group.all.pass(group.fibers); }
  void meet_warp() const { group.warps[index / 32].pass(group.fibers); }
};

// Every warpgroup's tile of every block of every cluster, in the order of the schedule.
template <class Visit>
void for_tiles(const Schedule& s, int columns_of_tile, int workers, Visit visit) {
  for (int worker = 0; worker < workers; ++worker) {
    Walk walk(s, Walk::start(worker), workers);
    int row, column;
    while (walk.next(row, column))
      for (int r = row; r < row + s.tile_rows; r += kGroupRows)
        for (int c = column; c < column + s.tile_columns; c += columns_of_tile) visit(r, c);
  }
}

// What the tensor cores would leave in the registers of one thread; zero rows beyond the last.
template <int kColumns>
void fragment(const Schedule& s, const float* products, int row, int column, int thread, float* t) {
  for (int m = 0; m < kColumns / 2; ++m) {
    const int r = row + fragment_row(thread, m), c = column + fragment_column(thread, m);
    t[m] = r < s.rows && c < s.columns ? products[static_cast<int64_t>(r) * s.columns + c] : 0.0f;
  }
}

template <int kColumns>
void sums(const Schedule& s, int workers, const float* const* products, const float* const* half_i,
          const float* const* half_j, const KernelForm* forms, int64_t first_i, int64_t first_j, int64_t n,
          int row_bits, int64_t* row_sums, int64_t* totals) {
  Group group;
  auto shared = std::make_unique<SumsShared<kColumns>>();
  std::vector<float> k(kGroupThreads * kColumns / 2), l(k.size());
  for_tiles(s, kColumns, workers, [&](int row, int column) {
    for (int p = 0; p < 2; ++p) {
      for (int r = 0; r < kGroupRows; ++r)
        shared->half_i[p][r] = (row + r < s.rows ? half_i[p][row + r] : 0.0f) * forms[p].half_scale();
      for (int c = 0; c < kColumns; ++c)
        shared->half_j[p][c] = (column + c < s.columns ? half_j[p][column + c] : 0.0f) * forms[p].half_scale();
    }
    int64_t limbs[4][3][2] = {};
    group.fibers.run([&](int thread) {
      HostLane lane{thread, group};
      float* of_k = k.data() + thread * kColumns / 2;
      float* of_l = l.data() + thread * kColumns / 2;
      fragment<kColumns>(s, products[0], row, column, thread, of_k);
      fragment<kColumns>(s, products[1], row, column, thread, of_l);
      to_kernel<kColumns>(of_k, forms[0], shared->half_i[0], shared->half_j[0], lane);
      to_kernel<kColumns>(of_l, forms[1], shared->half_i[1], shared->half_j[1], lane);
      const TileBounds bounds = tile_bounds(s, row, column, thread);
      if (!whole<kColumns>(s, row, column)) {
        mask_tile<kColumns>(of_k, bounds, lane);
        mask_tile<kColumns>(of_l, bounds, lane);
      }
      const SumsTotals to{row_sums + first_i + row, row_sums + first_j + column, n, std::ldexp(1.0f, row_bits),
                          limbs[thread / 32]};
      add_tile<kColumns>(of_k, of_l, bounds, *shared, to, lane);
    });
    const auto add = [](int64_t* to, int64_t term) { return std::exchange(*to, *to + term); };
    for (auto& of_warp : limbs)
      for (int p = 0; p < 3; ++p) {
        add(totals + 2 * p, of_warp[p][0]);
        add_to_limbs(totals + 2 * p, of_warp[p][1], add);
      }
  });
  for (int p = 0; p < 3; ++p) totals[2 * p + 1] &= kLow;
}

template <int kColumns>
void select(const Schedule& s, int workers, const float* products, const float* half_i, const float* half_j,
            const float* threshold, Offers offers, int64_t capacity) {
  Group group;
  auto shared = std::make_unique<SelectShared<kColumns>>();
  std::vector<float> t(kGroupThreads * kColumns / 2);
  constexpr float kNone = std::numeric_limits<float>::infinity();
  const Offers whole_block = offers;
  for_tiles(s, kColumns, workers, [&](int row, int column) {
    for (int r = 0; r < kGroupRows; ++r) {
      const bool exists = row + r < s.rows;
      shared->half_i[r] = exists ? half_i[row + r] : kNone;
      shared->threshold_i[r] = exists ? threshold[whole_block.first_i + row + r] : kNone;
    }
    for (int c = 0; c < kColumns; ++c) {
      const bool exists = column + c < s.columns;
      shared->half_j[c] = exists ? half_j[column + c] : kNone;
      shared->threshold_j[c] = exists && offers.columns_too ? threshold[whole_block.first_j + column + c] : kNone;
    }
    offers.first_i = whole_block.first_i + row;
    offers.first_j = whole_block.first_j + column;
    offers.index_j = whole_block.index_j + whole_block.step_j * column;
    offers.inputs_i = whole_block.inputs_i ? whole_block.inputs_i + row : nullptr;
    offers.capacity = capacity;
    group.fibers.run([&](int thread) {
      HostLane lane{thread, group};
      float* own = t.data() + thread * kColumns / 2;
      fragment<kColumns>(s, products, row, column, thread, own);
      select_tile<kColumns>(own, *shared, offers, lane);
    });
  });
}

// What the barriers of a cluster do, step by step in any order, with copies that arrive whenever they like.
struct Barrier {
  int count, pending, transactions = 0;
  uint32_t phase = 0;
  explicit Barrier(int arrivals) : count(arrivals), pending(arrivals) {}
  void arrive() { --pending, settle(); }
  void expect(int bytes) { transactions += bytes, arrive(); }
  void complete(int bytes) { transactions -= bytes, settle(); }
  bool passed(uint32_t parity) const { return (phase & 1) != parity; }
  bool broken() const { return pending < 0; }

 private:
  void settle() {
    if (pending == 0 && transactions == 0) {
      ++phase;
      pending = count;
    }
  }
};

template <int kRows, int kColumns>
const char* ring_fault(int stages, int steps, uint64_t seed) {
  using Place = ClusterPlace<kRows, kColumns>;
  constexpr int kWarps = 8;
  struct Slice {
    int step = -1;
    bool read = true;
  };
  struct Warp {
    RingPlace at;
    int issued = 0, settled = 0;
  };
  struct Block {
    Place place;
    std::vector<Barrier> full, empty;
    std::vector<std::vector<Slice>> slices;  // [stages, kColumns + kRows]: of the left operand, then of the right
    std::vector<std::vector<int>> readers;   // [stages] warps that still read it
    RingPlace loader;
    int loaded = 0;
    Warp warps[kWarps];
  };
  struct Copy {
    int block, stage, slice, step;
  };
  std::vector<Block> blocks(Place::kSize);
  for (int rank = 0; rank < Place::kSize; ++rank) {
    Block& b = blocks[rank];
    b.place = Place::of_rank(rank);
    b.full.assign(stages, Barrier(1));
    b.empty.assign(stages, Barrier(kWarps * Place::kSenders));
    b.slices.assign(stages, std::vector<Slice>(kRows + kColumns));
    b.readers.assign(stages, {});
  }
  std::vector<Copy> flying;
  std::mt19937_64 random(seed);
  const int slices = kRows + kColumns;
  for (int64_t turn = 0; turn < int64_t{400} * steps * Place::kSize * (kWarps + 2) + 10000; ++turn) {
    // A copy lands.
    if (!flying.empty() && random() % 3 == 0) {
      const size_t which = random() % flying.size();
      const Copy copy = flying[which];
      flying[which] = flying.back();
      flying.pop_back();
      Block& to = blocks[copy.block];
      if (!to.readers[copy.stage].empty()) return "a copy landed on a stage that is being read";
      to.slices[copy.stage][copy.slice].step = copy.step;
      to.full[copy.stage].complete(1);
      continue;
    }
    Block& b = blocks[random() % Place::kSize];
    const int actor = random() % (kWarps + 1);
    if (actor == kWarps) {  // the loader
      if (b.loaded == steps || !b.empty[b.loader.stage].passed(b.loader.phase ^ 1)) continue;
      b.full[b.loader.stage].expect(slices);
      for (int rank = 0; rank < Place::kSize; ++rank) {
        if (b.place.row_mask() >> rank & 1) flying.push_back({rank, b.loader.stage, b.place.column, b.loaded});
        if (b.place.column_mask() >> rank & 1)
          flying.push_back({rank, b.loader.stage, kColumns + b.place.row, b.loaded});
      }
      b.loader.advance(stages);
      ++b.loaded;
      continue;
    }
    Warp& w = b.warps[actor];
    const bool last = w.issued == steps;
    if (last && w.settled == steps) continue;
    if (!last && w.issued - w.settled < 2) {  // issue, as Multiplier::issue
      if (!b.full[w.at.stage].passed(w.at.phase)) continue;
      for (const Slice& slice : b.slices[w.at.stage])
        if (slice.step != w.issued) return "a stage held another step than its reader expects";
      b.readers[w.at.stage].push_back(actor);
      w.at.advance(stages);
      ++w.issued;
      if (w.issued - w.settled < 2 && w.issued < steps) continue;
    }
    if (w.issued - w.settled == 2 || w.issued == steps) {  // settle<1>, or settle<0> at the end
      const int stage = w.at.back(w.issued - w.settled, stages);
      std::erase(b.readers[stage], actor);
      for (int rank = 0; rank < 32; ++rank)
        if (b.place.hears(rank)) blocks[rank].empty[stage].arrive();
      ++w.settled;
    }
    for (const Block& each : blocks)
      for (int stage = 0; stage < stages; ++stage)
        if (each.full[stage].broken() || each.empty[stage].broken())
          return "a barrier got more arrivals than it counts";
    bool all = flying.empty();
    for (const Block& each : blocks) {
      all &= each.loaded == steps;
      for (const Warp& warp : each.warps) all &= warp.settled == steps;
    }
    if (all) return nullptr;
  }
  return "the ring stood still";
}

Schedule schedule_of(const int* s) { return hopper::schedule_of(s[0], s[1], s[2], s[3], s[4], s[5] != 0); }

struct SerialBlock {
  Gate& gate;
  Fibers& fibers;
  int index;
  int thread() const { return index; }
  int threads() const { return gate.count; }
  void meet() const { gate.pass(fibers); }
};

}  // namespace

extern "C" {

// visits [.., 3]: worker, row, column of every cluster tile; returns how many.
int64_t walk(const int* schedule, int workers, int64_t room, int32_t* visits) {
  const Schedule s = schedule_of(schedule);
  int64_t count = 0;
  for (int worker = 0; worker < workers; ++worker) {
    Walk going(s, Walk::start(worker), workers);
    int row, column;
    while (going.next(row, column)) {
      if (count == room) return -1;
      const int32_t visit[3] = {worker, row, column};
      std::copy_n(visit, 3, visits + 3 * count++);
    }
  }
  return count;
}

void fragment_places(int columns, int32_t* places /* [128, columns / 2, 2] */) {
  for (int thread = 0; thread < kGroupThreads; ++thread)
    for (int m = 0; m < columns / 2; ++m) {
      *places++ = fragment_row(thread, m);
      *places++ = fragment_column(thread, m);
    }
}

// sums[lane] of the 32 x 8 values, and which of the eight it is of.
void fold_lanes(const float* values, float* sums, int32_t* which) {
  Group group;
  group.fibers.run([&](int thread) {
    if (thread >= 32) return;
    HostLane lane{thread, group};
    float own[8];
    std::copy_n(values + 8 * thread, 8, own);
    sums[thread] = fold(own, lane);
    which[thread] = folded_value(thread);
  });
}

void kernel_sums(const int* schedule, int tile_columns, int workers, const float* const* products,
                 const float* const* half_i, const float* const* half_j, const int* kernels, const float* gains,
                 const float* shifts, const float* coefficients /* [2, kMostDegree + 1] */, int64_t first_i,
                 int64_t first_j, int64_t n, int row_bits, int64_t* row_sums, int64_t* totals) {
  const auto form = [&](int p) {
    const float* own = coefficients + p * (kMostDegree + 1);
    return kernel_form(static_cast<Kernel>(kernels[p]), gains[p], shifts[p], own, kMostDegree);
  };
  const KernelForm forms[2] = {form(0), form(1)};
  (tile_columns == 192 ? sums<192> : sums<128>)(schedule_of(schedule), workers, products, half_i, half_j, forms,
                                                first_i, first_j, n, row_bits, row_sums, totals);
}

void collect(const int* schedule, int tile_columns, int workers, const float* products, const float* half_i,
             const float* half_j, const float* thresholds, const int64_t* served, const int64_t* inputs,
             int64_t capacity, uint64_t* keys, int32_t* counts) {
  const Offers offers{keys,      counts, capacity,       served[0],      served[1],     served[1],
                      served[2], inputs, served[4] != 0, served[5] != 0, served[3] != 0};
  (tile_columns == 256 ? select<256> : select<128>)(schedule_of(schedule), workers, products, half_i, half_j,
                                                    thresholds, offers, capacity);
}

// The box that the copy engine reads at (feature, row, part), as the tensor map describes it: 0 where the map ends.
void read_box(const uint16_t* parts, const int64_t* form /* rows, depth, row_stride, part_stride, parts, box rows */,
              const int32_t* at, uint16_t* box /* [box rows, 64] */) {
  const BoxForm map = box_form({parts, nullptr, form[0], form[1], form[2], form[3]}, static_cast<int>(form[4]),
                               static_cast<int>(form[5]));
  for (uint32_t r = 0; r < map.box[1]; ++r)
    for (uint32_t k = 0; k < map.box[0]; ++k) {
      const uint64_t place[3] = {at[0] + k, at[1] + r, static_cast<uint64_t>(at[2])};
      const bool inside = place[0] < map.sizes[0] && place[1] < map.sizes[1] && place[2] < map.sizes[2];
      const auto* bytes = reinterpret_cast<const char*>(parts);
      const auto* value = bytes + place[0] * 2 + place[1] * map.strides[0] + place[2] * map.strides[1];
      box[r * map.box[0] + k] = inside ? *reinterpret_cast<const uint16_t*>(value) : 0;
    }
}

void sort(uint64_t* keys, int size, int threads) {
  Fibers fibers(threads);
  Gate gate{threads};
  fibers.run([&](int index) {
    SerialBlock block{gate, fibers, index};
    sort_keys(keys, size, block);
  });
}

// values[m] = the products of the parts of x[m] and y[m] that a precision takes, each exact, summed in float64.
void split_products(int precision, int64_t count, const float* x, const float* y, double* values, float* rests) {
  const Products products = products_of(static_cast<Precision>(precision));
  for (int64_t m = 0; m < count; ++m) {
    float parts[2][kMostParts], rest[2] = {x[m], y[m]};
    for (int side = 0; side < 2; ++side)
      for (int p = 0; p < products.parts; ++p) parts[side][p] = from_bfloat16(take_part(rest[side]));
    values[m] = 0;
    for (int p = 0; p < products.count; ++p)
      values[m] += static_cast<double>(parts[0][products.left[p]]) * parts[1][products.right[p]];
    rests[m] = rest[0];
  }
}

// What bounds.h says of the sums of a filter.
double roundings(int filter, int64_t depth) { return roundings_in_any_order(static_cast<Filter>(filter), depth); }

const char* ring(int cluster_rows, int cluster_columns, int stages, int steps, uint64_t seed) {
  if (cluster_rows == 1 && cluster_columns == 1) return ring_fault<1, 1>(stages, steps, seed);
  if (cluster_rows == 2 && cluster_columns == 1) return ring_fault<2, 1>(stages, steps, seed);
  if (cluster_rows == 1 && cluster_columns == 2) return ring_fault<1, 2>(stages, steps, seed);
  return ring_fault<2, 2>(stages, steps, seed);
}

}  // extern "C"
