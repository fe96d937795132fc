// Ranks of distances by counting them. Parallel axis: tiles. Bytes: 2 * 192 * depth * 8 of a tile, and of the table 8
// for each pair, at random: a table of hundreds of megabytes, so lines of it are fetched long before they are used.
#include <memory>
#include <mutex>
#include <vector>

#include "distance_tiles.h"
#include "parallel.h"

namespace repsim {
namespace {

__extension__ using Wide = __int128;

constexpr int64_t kPageSize = int64_t{1} << kPageBits;

WideSum halves(Wide sum) { return {static_cast<int64_t>(sum >> 64), static_cast<uint64_t>(sum)}; }

// The keys of one tile.
class KeyTile {
 public:
  const uint64_t* make(const Points& points, const cpu::Tile& tile) {
    distances_.make(points, tile, tile_.data());
    cpu::tile_ops().round_bits(tile_.data(), keys_.data());
    return keys_.data();
  }

 private:
  cpu::DistanceTiles distances_;
  cpu::Buffer<double> tile_{kTile * kTile};
  cpu::Buffer<uint64_t> keys_{kTile * kTile};
};

// visit(at) for the place in a tile of every pair i < j.
template <class Visit>
void each_pair(const cpu::Tile& tile, Visit visit) {
  for (int64_t i = 0; i < tile.rows; ++i)
    for (int64_t j = tile.diagonal ? i + 1 : 0; j < tile.columns; ++j) visit(i * kTile + j);
}

int64_t place(const int32_t* lines, uint64_t key) {
  return lines[key >> kPageBits] * kPageSize + static_cast<int64_t>(key & (kPageSize - 1));
}

// Additions to a large table, each kept for a while: its line is fetched meanwhile, and equal ones become one.
class Additions {
 public:
  explicit Additions(int64_t* table) : table_(table) {}
  void add(int64_t at) {
    Waiting& waiting = waiting_[at & (kWaiting - 1)];
    if (waiting.at == at) {
      ++waiting.count;
      return;
    }
    flush(waiting);
    waiting = {at, 1};
    __builtin_prefetch(table_ + at, 1);
  }
  void flush() {
    for (Waiting& waiting : waiting_) {
      flush(waiting);
      waiting.count = 0;
    }
  }

 private:
  static constexpr int64_t kWaiting = 256;
  struct Waiting {
    int64_t at = 0, count = 0;
  };
  void flush(const Waiting& waiting) {
    if (waiting.count) __atomic_fetch_add(table_ + waiting.at, waiting.count, __ATOMIC_RELAXED);
  }
  int64_t* table_;
  Waiting waiting_[kWaiting];
};

}  // namespace

void distance_pages(const Points& points, const BlockRange& range, uint8_t* seen, int threads) {
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  auto work = [&](int64_t number, std::unique_ptr<KeyTile>& own) {
    const cpu::Tile tile = grid.at(number);
    const uint64_t* keys = own->make(points, tile);
    each_pair(tile, [&](int64_t at) {
      uint8_t* page = seen + (keys[at] >> kPageBits);
      if (!__atomic_load_n(page, __ATOMIC_RELAXED)) __atomic_store_n(page, uint8_t{1}, __ATOMIC_RELAXED);
    });
  };
  cpu::parallel(grid.count(), threads, [] { return std::make_unique<KeyTile>(); }, work);
}

void distance_counts(const Points& points, const BlockRange& range, const int32_t* lines, int64_t* counts,
                     int threads) {
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  struct Scratch {
    KeyTile keys;
    Additions additions;
  };
  auto work = [&](int64_t number, std::unique_ptr<Scratch>& own) {
    const cpu::Tile tile = grid.at(number);
    const uint64_t* keys = own->keys.make(points, tile);
    each_pair(tile, [&](int64_t at) { own->additions.add(place(lines, keys[at])); });
    own->additions.flush();
  };
  cpu::parallel(
      grid.count(), threads, [&] { return std::unique_ptr<Scratch>(new Scratch{{}, Additions(counts)}); }, work);
}

WideSum counts_to_ranks(int64_t* counts, int64_t size) {
  int64_t pairs = 0, before = 0;
  for (int64_t at = 0; at < size; ++at) pairs += counts[at];
  Wide squares = 0;
  for (int64_t at = 0; at < size; ++at) {
    const int64_t count = counts[at];
    if (!count) continue;
    // Ranks before + 1 to before + count have the mean before + (count + 1) / 2.
    const int64_t rank = 2 * before + count - pairs;
    squares += static_cast<Wide>(rank) * rank * count;
    counts[at] = rank;
    before += count;
  }
  return halves(squares);
}

WideSum rank_products(const Points& x, const RankTable& x_table, const Points& y, const RankTable& y_table,
                      const BlockRange& range, int threads) {
  const cpu::TileGrid grid(range, range.first_i == range.first_j);
  constexpr int64_t kAhead = 64;
  struct Scratch {
    KeyTile x, y;
    std::vector<int64_t> at_x = std::vector<int64_t>(kTile * kTile + kAhead);
    std::vector<int64_t> at_y = at_x;
  };
  Wide total = 0;
  std::mutex guard;
  auto work = [&](int64_t number, std::unique_ptr<Scratch>& own) {
    const cpu::Tile tile = grid.at(number);
    const uint64_t* keys_x = own->x.make(x, tile);
    const uint64_t* keys_y = own->y.make(y, tile);
    int64_t* at_x = own->at_x.data();
    int64_t* at_y = own->at_y.data();
    int64_t count = 0;
    each_pair(tile, [&](int64_t at) {
      at_x[count] = place(x_table.lines, keys_x[at]);
      at_y[count++] = place(y_table.lines, keys_y[at]);
    });
    std::fill(at_x + count, at_x + count + kAhead, 0);
    std::fill(at_y + count, at_y + count + kAhead, 0);
    Wide sum = 0;
    for (int64_t p = 0; p < count; ++p) {
      __builtin_prefetch(x_table.ranks + at_x[p + kAhead]);
      __builtin_prefetch(y_table.ranks + at_y[p + kAhead]);
      sum += static_cast<Wide>(x_table.ranks[at_x[p]]) * y_table.ranks[at_y[p]];
    }
    std::lock_guard lock(guard);
    total += sum;
  };
  cpu::parallel(grid.count(), threads, [] { return std::make_unique<Scratch>(); }, work);
  return halves(total);
}

}  // namespace repsim
