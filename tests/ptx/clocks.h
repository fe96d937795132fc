// Who has seen what: the vector clocks of the warps of a cluster, and what was last done to every word of shared
// memory. A race is an access that no barrier puts after an earlier one to the same word, where one of the two writes.
// See Flanagan and Freund, FastTrack: efficient and precise dynamic race detection (2009).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace repsim::ptx {

constexpr int kMostAgents = 64;  // warps of a cluster
constexpr uint32_t kNotYet = UINT32_MAX;

struct Clocks {
  std::array<uint32_t, kMostAgents> of{};
  void join(const Clocks& other) {
    for (int a = 0; a < kMostAgents; ++a) of[a] = of[a] < other.of[a] ? other.of[a] : of[a];
  }
};

// Who touches memory: a warp at its clock, and one of its lanes, or all of them at once.
struct Agent {
  static constexpr int kAllLanes = 32, kCopyEngine = 33;
  int warp;  // in the cluster
  int lane;
  uint32_t lane_epoch;  // how often the lanes of the warp have met
  const Clocks* clocks;
  std::string other(int theirs) const {
    return theirs == warp ? "another lane of its warp" : "warp " + std::to_string(theirs) + " of the cluster";
  }
};

class History {
 public:
  static constexpr int kWord = 2;  // bytes: a bfloat16

  explicit History(size_t bytes, int warps)
      : warps_(warps), words_(bytes / kWord + 1), reads_((bytes / kWord + 1) * warps) {}

  // Empty, or what is done though no barrier is between.
  std::string read(uint64_t at, int bytes, const Agent& who, int own_warp, bool under_way) {
    for (uint64_t w = at / kWord; w <= (at + bytes - 1) / kWord; ++w) {
      Word& word = words_[w];
      if (unseen_write(word, who)) return "reads what " + who.other(word.writer) + " writes";
      reads_[w * warps_ + own_warp] = under_way ? kNotYet : who.clocks->of[who.warp];
      const bool others =
          word.read && word.reader == who.warp && word.read_epoch == who.lane_epoch && word.reader_lane != who.lane;
      word.reader = static_cast<int8_t>(who.warp);
      word.reader_lane = static_cast<int8_t>(others ? Agent::kAllLanes : who.lane);
      word.read_epoch = who.lane_epoch;
      word.read = true;
    }
    return "";
  }

  std::string write(uint64_t at, int bytes, const Agent& who, int first_warp) {
    for (uint64_t w = at / kWord; w <= (at + bytes - 1) / kWord; ++w) {
      Word& word = words_[w];
      if (unseen_write(word, who)) return "writes what " + who.other(word.writer) + " writes";
      for (int r = 0; r < warps_; ++r) {
        const uint32_t read = reads_[w * warps_ + r];
        const bool same = first_warp + r == who.warp;
        if (same && read == kNotYet) return "writes what its own products still read";
        if (!same && read > who.clocks->of[first_warp + r])
          return "writes what " + who.other(first_warp + r) + " reads";
      }
      if (word.read && word.reader == who.warp && !ordered_inside(word.reader_lane, word.read_epoch, who))
        return "writes what " + who.other(who.warp) + " reads";
      word.writer = static_cast<int8_t>(who.warp);
      word.writer_lane = static_cast<int8_t>(who.lane);
      word.write_epoch = who.lane_epoch;
      word.write_clock = who.clocks->of[who.warp];
      word.written = true;
    }
    return "";
  }

 private:
  struct Word {
    bool written = false, read = false;
    int8_t writer = 0, writer_lane = 0, reader = 0, reader_lane = 0;
    uint32_t write_clock = 0, write_epoch = 0, read_epoch = 0;
  };

  static bool unseen_write(const Word& word, const Agent& who) {
    return word.written && !(word.writer == who.warp ? ordered_inside(word.writer_lane, word.write_epoch, who)
                                                     : word.write_clock <= who.clocks->of[word.writer]);
  }

  // Of one warp: the same lane, or the lanes have met.
  static bool ordered_inside(int lane, uint32_t epoch, const Agent& who) {
    return epoch != who.lane_epoch || lane == who.lane;
  }

  int warps_;
  std::vector<Word> words_;
  std::vector<uint32_t> reads_;  // of every word, by every warp of the block: the clock of its last read
};

}  // namespace repsim::ptx
