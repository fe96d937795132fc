// sum_{i != j} of K_p, K_p K_q over one pair of blocks. Parallel axis: tiles. Bytes: 2 * 192 * depth * 4 per tile and
// matrix; the tile of every matrix stays in cache until its sums are taken.
#include <cmath>
#include <memory>

#include "parallel.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim {
namespace {

int64_t add(int64_t& total, int64_t term) { return __atomic_fetch_add(&total, term, __ATOMIC_RELAXED); }

// Two limbs, value = limbs[0] 2^32 + limbs[1]. An addition carries what it pushes over bit 32 itself, so that no number
// of tiles overflows the lower limb; the bits above 32 that stay in it are dropped at the end.
constexpr int64_t kLow = 0xffffffff;
void add_to_limbs(int64_t* limbs, int64_t term) {
  const int64_t low = term & kLow;
  const int64_t carry = ((add(limbs[1], low) & kLow) + low) >> 32;
  add(limbs[0], (term >> 32) + carry);
}

struct Workspace {
  cpu::TileBuffer tiles;
  alignas(64) float half_i[kTile], half_j[kTile];
  double rows[kTile], columns[kTile];
  explicit Workspace(int64_t matrices) : tiles(matrices * kTile * kTile) {}
};

}  // namespace

void kernel_sums(const BlockPair* pairs, int64_t matrices, int64_t left, const BlockRange& range, int64_t n,
                 int row_bits, int64_t* row_sums, int64_t* products, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const bool triangle = range.first_i == range.first_j;
  const cpu::TileGrid grid(range, triangle);
  const double row_unit = std::ldexp(1.0, row_bits), product_unit = std::ldexp(1.0, kProductBits);

  auto work = [&](int64_t number, std::unique_ptr<Workspace>& own) {
    const cpu::Tile tile = grid.at(number);
    for (int64_t p = 0; p < matrices; ++p) {
      const BlockPair& pair = pairs[p];
      float* c = own->tiles.data() + p * kTile * kTile;
      ops.multiply(pair.rows_i + tile.i * pair.depth, pair.rows_j + tile.j * pair.depth, pair.depth, c);
      if (pair.kernel == Kernel::rbf) {
        cpu::copy_padded(pair.half_i + tile.i, tile.rows, own->half_i);
        cpu::copy_padded(pair.half_j + tile.j, tile.columns, own->half_j);
        ops.rbf(c, own->half_i, own->half_j, pair.shift);
      }
      cpu::fill_absent(c, tile, true, 0.0f);

      ops.sums(c, own->rows, own->columns);
      int64_t* sums_i = row_sums + p * n + range.first_i + tile.i;
      for (int64_t i = 0; i < tile.rows; ++i) add(sums_i[i], std::llrint(own->rows[i] * row_unit));
      if (!tile.diagonal) {
        int64_t* sums_j = row_sums + p * n + range.first_j + tile.j;
        for (int64_t j = 0; j < tile.columns; ++j) add(sums_j[j], std::llrint(own->columns[j] * row_unit));
      }
      for (int64_t q = 0; q <= p; ++q) {
        if (q != p && !(q < left && left <= p)) continue;
        const double weight = tile.diagonal ? 1.0 : 2.0;
        const int64_t product = std::llrint(weight * ops.dot(own->tiles.data() + q * kTile * kTile, c) * product_unit);
        add_to_limbs(products + (q * matrices + p) * 2, product);
      }
    }
  };
  cpu::parallel(grid.count(), threads, [&] { return std::make_unique<Workspace>(matrices); }, work);
  for (int64_t pair = 0; pair < matrices * matrices; ++pair) products[pair * 2 + 1] &= kLow;
}

}  // namespace repsim
