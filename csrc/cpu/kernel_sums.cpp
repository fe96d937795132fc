// sum_{i != j} of K_p, K_p K_q over one pair of blocks. Parallel axis: tiles. Bytes: 2 * 192 * depth * 4 per tile and
// factor; the tile of every matrix stays in cache until its sums are taken.
#include <cmath>
#include <memory>

#include "../fixed_point.h"
#include "kernel_tiles.h"
#include "parallel.h"

namespace repsim {
namespace {

int64_t add(int64_t& total, int64_t term) { return __atomic_fetch_add(&total, term, __ATOMIC_RELAXED); }

bool compound(const KernelMatrix* matrices, int64_t count) {
  for (int64_t p = 0; p < count; ++p)
    if (matrices[p].count > 1 || matrices[p].terms[0].count > 1) return true;
  return false;
}

struct Workspace {
  cpu::TileBuffer tiles;
  cpu::KernelTiles make;
  double rows[kTile], columns[kTile];
  Workspace(const KernelMatrix* matrices, int64_t count)
      : tiles(count * kTile * kTile), make(compound(matrices, count)) {}
  float* tile(int64_t p) { return tiles.data() + p * kTile * kTile; }
  // The tiles of all matrices, 0 where there is no pair of two inputs.
  void fill(const KernelMatrix* matrices, int64_t count, const cpu::Tile& where) {
    for (int64_t p = 0; p < count; ++p) {
      make.kernel(matrices[p], where, tile(p));
      cpu::fill_absent(tile(p), where, true, 0.0f);
    }
  }
};

// Adds the rows of a tile, and its columns where they stand for rows of their own, to fixed point sums over all inputs.
class RowSums {
 public:
  RowSums(const BlockRange& range, int bits) : range_(range), unit_(std::ldexp(1.0, bits)) {}
  void add_tile(const cpu::Tile& tile, const double* rows, const double* columns, int64_t* sums /* [n] */) const {
    for (int64_t i = 0; i < tile.rows; ++i) add(sums[range_.first_i + tile.i + i], std::llrint(rows[i] * unit_));
    if (tile.diagonal) return;
    for (int64_t j = 0; j < tile.columns; ++j) add(sums[range_.first_j + tile.j + j], std::llrint(columns[j] * unit_));
  }

 private:
  BlockRange range_;
  double unit_;
};

bool asked(int64_t q, int64_t p, int64_t left) { return q == p || (q < left && left <= p); }

}  // namespace

void kernel_sums(const KernelMatrix* matrices, int64_t count, int64_t left, const BlockRange& range, int64_t n,
                 int row_bits, int64_t* row_sums, int64_t* products, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  const RowSums rows(range, row_bits);
  const double product_unit = std::ldexp(1.0, kProductBits);

  auto work = [&](int64_t number, std::unique_ptr<Workspace>& own) {
    const cpu::Tile tile = grid.at(number);
    own->fill(matrices, count, tile);
    for (int64_t p = 0; p < count; ++p) {
      ops.sums(own->tile(p), own->rows, own->columns);
      rows.add_tile(tile, own->rows, own->columns, row_sums + p * n);
      for (int64_t q = 0; q <= p; ++q) {
        if (!asked(q, p, left)) continue;
        const double weight = tile.diagonal ? 1.0 : 2.0;
        const int64_t product = std::llrint(weight * ops.dot(own->tile(q), own->tile(p)) * product_unit);
        add_to_limbs(products + (q * count + p) * 2, product, [](int64_t* to, int64_t term) { return add(*to, term); });
      }
    }
  };
  cpu::parallel(grid.count(), threads, [&] { return std::make_unique<Workspace>(matrices, count); }, work);
  for (int64_t pair = 0; pair < count * count; ++pair) products[pair * 2 + 1] &= kLow;
}

void kernel_row_terms(const KernelMatrix* matrices, int64_t count, int64_t left, const BlockRange& range, int64_t n,
                      int row_bits, const float* vectors, int64_t* pair_sums, int64_t* vector_sums, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  const RowSums rows(range, row_bits);

  struct Scratch : Workspace {
    alignas(64) float vector_i[kTile], vector_j[kTile];
    using Workspace::Workspace;
  };
  auto work = [&](int64_t number, std::unique_ptr<Scratch>& own) {
    const cpu::Tile tile = grid.at(number);
    own->fill(matrices, count, tile);
    for (int64_t p = 0; p < count; ++p)
      for (int64_t q = 0; q < count; ++q) {
        if (!asked(q, p, left) && !asked(p, q, left)) continue;
        const float* vector = vectors + q * n;
        cpu::copy_padded(vector + range.first_i + tile.i, tile.rows, own->vector_i);
        cpu::copy_padded(vector + range.first_j + tile.j, tile.columns, own->vector_j);
        ops.weighted_sums(own->tile(p), own->vector_i, own->vector_j, own->rows, own->columns);
        rows.add_tile(tile, own->rows, own->columns, vector_sums + (p * count + q) * n);
      }
    for (int64_t p = 0; p < count; ++p)
      for (int64_t q = p; q < count; ++q) {
        if (!asked(p, q, left)) continue;
        ops.product_sums(own->tile(p), own->tile(q), own->rows, own->columns);
        rows.add_tile(tile, own->rows, own->columns, pair_sums + (p * count + q) * n);
      }
  };
  cpu::parallel(grid.count(), threads, [&] { return std::make_unique<Scratch>(matrices, count); }, work);
}

int64_t distance_histogram(const BlockPair& pair, Distance distance, const BlockRange& range, int dropped,
                           uint32_t first, int64_t* bins, int64_t bin_count, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  int64_t below = 0;
  const uint32_t infinite = 0x7f800000u >> dropped;  // where what is no pair lies: no bin
  const uint32_t counted = static_cast<uint32_t>(std::min<int64_t>(bin_count, infinite - first));

  struct Scratch {
    cpu::TileBuffer tile{kTile * kTile};
    cpu::KernelTiles make{false};
    std::vector<uint32_t> found = std::vector<uint32_t>(kTile * kTile);
  };
  auto work = [&](int64_t number, std::unique_ptr<Scratch>& own) {
    const cpu::Tile tile = grid.at(number);
    float* c = own->tile.data();
    own->make.distances(pair, distance, tile, c);
    cpu::fill_absent(c, tile, true, -INFINITY);
    int32_t lower;
    const int32_t count = ops.count_bits(c, dropped, first, counted, own->found.data(), &lower);
    // A diagonal tile holds (i, j) and (j, i).
    const int64_t weight = tile.diagonal ? 1 : 2;
    add(below, weight * lower);
    for (int32_t f = 0; f < count; ++f) add(bins[own->found[f]], weight);
  };
  cpu::parallel(grid.count(), threads, [] { return std::make_unique<Scratch>(); }, work);
  return below;
}

}  // namespace repsim
