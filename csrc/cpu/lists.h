// Two lists side by side: what they share, and what follows from it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "../ops.h"

namespace repsim::cpu {

// Where each input stands in one list: a hash table with open addressing, an eighth full at the most.
class Positions {
 public:
  explicit Positions(int64_t k)
      : mask_(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(8 * k, 16))) - 1),
        shift_(64 - std::countr_one(mask_)),
        slots_(mask_ + 1, Slot{kNone, 0}),
        keys_(k),
        used_(k) {}

  // Takes the place of the list before: target(0), target(1), ..., k at the most. False where an input comes twice.
  template <class Target>
  bool fill(int64_t count, Target target) {
    for (int64_t position = 0; position < filled_; ++position) slots_[used_[position]].key = kNone;
    filled_ = 0;
    // Apart from the table, so that what the targets wait for in memory is fetched at once.
    for (int64_t position = 0; position < count; ++position) keys_[position] = target(position);
    for (; filled_ < count; ++filled_) {
      const int64_t key = keys_[filled_];
      uint64_t at = start(key);
      for (; slots_[at].key != kNone; at = (at + 1) & mask_)
        if (slots_[at].key == key) return false;
      slots_[at] = {key, filled_};
      used_[filled_] = at;
    }
    return true;
  }

  // The position of an input, or -1.
  int64_t find(int64_t key) const {
    for (uint64_t at = start(key); slots_[at].key != kNone; at = (at + 1) & mask_)
      if (slots_[at].key == key) return slots_[at].position;
    return -1;
  }

 private:
  static constexpr int64_t kNone = -1;
  struct Slot {
    int64_t key, position;
  };
  uint64_t start(int64_t key) const { return static_cast<uint64_t>(key) * 0x9e3779b97f4a7c15u >> shift_; }

  uint64_t mask_;
  int shift_;
  std::vector<Slot> slots_;
  std::vector<int64_t> keys_;
  std::vector<uint64_t> used_;
  int64_t filled_ = 0;
};

struct List {
  const int64_t* targets;
  int64_t length;
};

inline List list_of(const Lists& lists, int64_t i) {
  if (!lists.offsets) return {lists.targets + i * lists.k, lists.k};
  return {lists.targets + lists.offsets[i], lists.offsets[i + 1] - lists.offsets[i]};
}

// A common input: its positions in the two lists.
struct Match {
  int32_t a, b;
};

// The common inputs of a list of a and a list of b, in the order of the former, and room to work.
struct Common {
  explicit Common(int64_t k) : positions(k), words((k + 63) / 64), up(words), down(words) { matches.reserve(k); }

  // `name` null: the inputs of b keep their names.
  void find(const List& list_a, const List& list_b, const int64_t* name) {
    const bool once = name ? positions.fill(list_b.length, [&](int64_t p) { return name[list_b.targets[p]]; })
                           : positions.fill(list_b.length, [&](int64_t p) { return list_b.targets[p]; });
    matches.clear();
    for (int64_t p = 0; p < list_a.length; ++p) {
      const int64_t at = positions.find(list_a.targets[p]);
      if (at >= 0) matches.push_back({static_cast<int32_t>(p), static_cast<int32_t>(at)});
    }
    if (!once || static_cast<int64_t>(matches.size()) > list_b.length)
      throw std::invalid_argument("lists: expected no input twice in a list");
  }

  int64_t count() const { return static_cast<int64_t>(matches.size()); }

  Positions positions;
  std::vector<Match> matches;
  std::vector<int32_t> tails;  // of chains
  int64_t words;
  std::vector<uint64_t> up, down;
};

// No input stands twice in a list, so a common subsequence is a rising chain of positions: the longest, by patience
// (Fredman 1975), in c log c steps.
inline int64_t longest_common_subsequence(Common& common) {
  std::vector<int32_t>& tails = common.tails;  // tails[m]: the least last position of a chain of m + 1
  tails.clear();
  for (const Match& match : common.matches) {
    const auto at = std::lower_bound(tails.begin(), tails.end(), match.b);
    if (at == tails.end())
      tails.push_back(match.b);
    else
      *at = match.b;
  }
  return static_cast<int64_t>(tails.size());
}

// Levenshtein distance of two lists of length k with few common inputs: between two matches of a rising chain lie u and
// v entries that max(u, v) edits turn into one another, so the distance is that of the cheapest chain. c^2 steps.
inline int64_t edit_distance_by_chains(Common& common, int64_t k) {
  std::vector<int32_t>& cost = common.tails;  // cost[m]: of the cheapest chain that ends in match m
  cost.clear();
  const int32_t last = static_cast<int32_t>(k) - 1;
  int32_t best = last + 1;
  for (size_t m = 0; m < common.matches.size(); ++m) {
    const Match to = common.matches[m];
    int32_t least = std::max(to.a, to.b);
    for (size_t l = 0; l < m; ++l) {
      const Match from = common.matches[l];
      if (from.b < to.b) least = std::min(least, cost[l] + std::max(to.a - from.a, to.b - from.b) - 1);
    }
    cost.push_back(least);
    best = std::min(best, least + last - std::min(to.a, to.b));
  }
  return best;
}

// The same by the columns of the table of distances, 64 entries of the first list to a word: Myers (1999), "A fast
// bit-vector algorithm for approximate string matching", in the form of Hyyro (2003) for whole sequences. An entry of
// the second list equals at most one of the first. k ceil(k / 64) steps.
inline int64_t edit_distance_by_words(Common& common, int64_t k) {
  std::vector<int32_t>& partner = common.tails;  // partner[b]: the position in the first list, or -1
  partner.assign(k, -1);
  for (const Match& match : common.matches) partner[match.b] = match.a;
  std::vector<uint64_t>&up = common.up, &down = common.down;  // where the table rises, falls, down a column
  std::fill(up.begin(), up.end(), ~uint64_t{0});
  std::fill(down.begin(), down.end(), uint64_t{0});
  const int64_t last_word = common.words - 1;
  const int last_bit = static_cast<int>((k - 1) & 63);
  int64_t distance = k;
  for (int64_t column = 0; column < k; ++column) {
    const int32_t match = partner[column];
    uint64_t rise = 1, fall = 0;  // along the row above this word: the uppermost row counts the columns
    for (int64_t word = 0; word <= last_word; ++word) {
      const uint64_t equal = match >= 0 && match >> 6 == word ? uint64_t{1} << (match & 63) : 0;
      const uint64_t v_up = up[word], v_down = down[word];
      const uint64_t x = equal | fall;
      const uint64_t diagonal = (((x & v_up) + v_up) ^ v_up) | x | v_down;
      uint64_t h_rise = v_down | ~(diagonal | v_up);
      uint64_t h_fall = v_up & diagonal;
      if (word == last_word) distance += static_cast<int64_t>(h_rise >> last_bit & 1) - (h_fall >> last_bit & 1);
      const uint64_t rise_out = h_rise >> 63, fall_out = h_fall >> 63;
      h_rise = h_rise << 1 | rise;
      h_fall = h_fall << 1 | fall;
      up[word] = h_fall | ~((equal | v_down) | h_rise);
      down[word] = h_rise & (equal | v_down);
      rise = rise_out;
      fall = fall_out;
    }
  }
  return distance;
}

inline int64_t edit_distance(Common& common, int64_t k) {
  // A step of a chain takes about a sixteenth of the time of a word.
  const int64_t count = common.count();
  return count * count <= 16 * k * common.words ? edit_distance_by_chains(common, k)
                                                : edit_distance_by_words(common, k);
}

}  // namespace repsim::cpu
