// Products of features, summed over rows in float64. Parallel axis: rows for lifting, pieces of the product matrices
// otherwise. Bytes: the rows once; a piece is read and written once a call, its panels stay in L2.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "../element.h"
#include "parallel.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim {
namespace {

constexpr int64_t kLiftedAtATime = 32;
constexpr int64_t kPieceColumns = kTile;

// A part of the product matrix of one pair: at most 192 x 192.
struct Piece {
  int64_t pair, i, j, rows, columns;
};

std::vector<Piece> pieces_of(const LiftedPair* pairs, int64_t count, int64_t piece_rows) {
  std::vector<Piece> pieces;
  for (int64_t p = 0; p < count; ++p)
    for (int64_t i = 0; i < pairs[p].left_depth; i += piece_rows)
      for (int64_t j = 0; j < pairs[p].right_depth; j += kPieceColumns)
        if (pairs[p].left != pairs[p].right || j + kPieceColumns > i)
          pieces.push_back({p, i, j, std::min(piece_rows, pairs[p].left_depth - i),
                            std::min(kPieceColumns, pairs[p].right_depth - j)});
  return pieces;
}

}  // namespace

int64_t lift_rows(const Source& x, const double* shift, int64_t first, double* panels, int64_t room, double* largest,
                  int threads) {
  return with_elements(x, [&](auto* data) {
    const int64_t blocks = (x.rows + kLiftedAtATime - 1) / kLiftedAtATime;
    const int64_t stride = room * kPanel, panel_count = (x.depth + 2 + 47) / 48 * 3;
    std::vector<double> longest(blocks, 0.0);
    std::atomic<int64_t> first_bad{x.rows};
    cpu::parallel(blocks, threads, [&](int64_t block) {
      const int64_t begin = block * kLiftedAtATime, count = std::min(kLiftedAtATime, x.rows - begin);
      const auto* rows = data + begin * x.row_stride;
      double* out = panels + (first + begin) * kPanel;
      // Panel by panel: what is written lies together, while the rows at hand stay in cache.
      double squares[kLiftedAtATime][kPanel] = {};
      int64_t k = 0;
      for (; k + kPanel <= x.depth; k += kPanel, out += stride)
        for (int64_t i = 0; i < count; ++i) {
          double moved[kPanel];  // of its own, so that the compiler knows that the shift is not written
          for (int64_t r = 0; r < kPanel; ++r) moved[r] = widen(rows[i * x.row_stride + k + r]) - shift[k + r];
          for (int64_t r = 0; r < kPanel; ++r) squares[i][r] += moved[r] * moved[r];
          std::copy(moved, moved + kPanel, out + i * kPanel);
        }
      const int64_t rest = x.depth - k;
      for (int64_t i = 0; i < count; ++i) {
        const auto* row = rows + i * x.row_stride;
        double last[4 * kPanel] = {};  // at most 17 entries are left, and at most four panels
        for (int64_t r = 0; r < rest; ++r) {
          last[r] = widen(row[k + r]) - shift[k + r];
          squares[i][r] += last[r] * last[r];
        }
        double norm = 0;
        for (int64_t r = 0; r < kPanel; ++r) norm += squares[i][r];
        last[rest] = 1;
        last[rest + 1] = norm;
        for (int64_t p = k / kPanel; p < panel_count; ++p) {
          const int64_t at = p * kPanel - k;
          std::copy(last + at, last + at + kPanel, out + i * kPanel + at * room);
        }
        longest[block] = std::max(longest[block], norm);
        // A norm that is not finite is an element that is not, or finite ones whose squares overflow.
        const auto finite = [](auto element) { return std::isfinite(widen(element)); };
        if (!std::isfinite(norm) && !std::all_of(row, row + x.depth, finite)) {
          for (int64_t known = first_bad.load();
               begin + i < known && !first_bad.compare_exchange_weak(known, begin + i);) {
          }
          break;
        }
      }
    });
    *largest = *std::max_element(longest.begin(), longest.end());
    const int64_t bad = first_bad.load();
    return bad < x.rows ? bad : int64_t{-1};
  });
}

void feature_products(const LiftedPair* pairs, int64_t count, int64_t room, int64_t rows, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const int64_t stride = room * kPanel;
  // Small enough pieces that all threads end together; how the products are cut changes none of them.
  int64_t piece_rows = kTile;
  std::vector<Piece> pieces = pieces_of(pairs, count, piece_rows);
  while (piece_rows > 48 && static_cast<int64_t>(pieces.size()) < 16 * threads)
    pieces = pieces_of(pairs, count, piece_rows /= 2);

  auto work = [&](int64_t number, cpu::Buffer<double>& own) {
    const Piece& piece = pieces[number];
    const LiftedPair& pair = pairs[piece.pair];
    const bool triangle = pair.left == pair.right;
    const int64_t above = triangle ? piece.j - piece.i : pair.left_depth;
    double* products = pair.products + piece.i * pair.right_depth + piece.j;
    std::fill(own.data(), own.data() + piece_rows * kTile, 0.0);
    for (int64_t i = 0; i < piece.rows; ++i)
      std::copy(products + i * pair.right_depth, products + i * pair.right_depth + piece.columns,
                own.data() + i * kTile);
    const double* left = pair.left + piece.i / kPanel * stride;
    const double* right = pair.right + piece.j / kPanel * stride;
    for (int64_t k = 0; k < rows; k += kSummedRows)
      ops.add_products(left + k * kPanel, right + k * kPanel, stride, std::min(kSummedRows, rows - k), piece.rows,
                       piece.columns, above, own.data());
    for (int64_t i = 0; i < piece.rows; ++i)
      std::copy(own.data() + i * kTile, own.data() + i * kTile + piece.columns, products + i * pair.right_depth);
  };
  cpu::parallel(static_cast<int64_t>(pieces.size()), threads, [] { return cpu::Buffer<double>(kTile * kTile); }, work);
}

}  // namespace repsim
