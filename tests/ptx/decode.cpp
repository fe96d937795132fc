#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "program.h"
#include "text.h"

namespace repsim::ptx {
namespace {

class Decoder {
 public:
  Decoder(const Module& module, const Function& entry) : module_(module) {
    kernel_.name = entry.name;
    scopes_.emplace_back();
    for (const std::string& declaration : entry.parameters) {
      const std::optional<Type> type = type_in(declaration);
      if (!type) refuse("expected a type of a parameter: " + declaration, entry.line);
      const uint64_t size = type->size * number_after(declaration, "[", 1);
      const uint64_t alignment = number_after(declaration, ".align", type->size);
      kernel_.parameter_bytes = (kernel_.parameter_bytes + alignment - 1) / alignment * alignment;
      parameters_[last_word(declaration)] = kernel_.parameter_bytes;
      kernel_.parameters.push_back({kernel_.parameter_bytes, size});
      kernel_.parameter_bytes += size;
    }
    auto variables = module.shared;
    variables.insert(entry.shared.begin(), entry.shared.end());
    place_shared(variables);
    paste(entry, {}, {});
    for (auto& [at, label] : jumps_) kernel_.code[at].target = labels_.at(label);
    emit(Op::exit, entry.line);
  }

  Kernel take() { return std::move(kernel_); }

 private:
  struct Name {
    int slot;
    Type type;
  };
  using Scope = std::map<std::string, Name>;

  static std::optional<Type> type_in(const std::string& declaration) {
    for (const std::string& part : cut(declaration, ' '))
      if (!part.empty() && part[0] == '.')
        if (const auto type = type_of(part.substr(1))) return type;
    return std::nullopt;
  }

  // Arrays of a known size first; the one whose size comes with the launch begins after them.
  void place_shared(const std::map<std::string, std::string>& variables) {
    uint64_t end = kSharedBegin;
    const auto place = [&](bool sized) {
      for (const auto& [name, declaration] : variables) {
        if ((number_after(declaration, "[", 0) > 0) != sized) continue;
        const uint64_t alignment = number_after(declaration, ".align", 1);
        const uint64_t at = (end + alignment - 1) / alignment * alignment;
        shared_[name] = at;
        if (sized) end = at + number_after(declaration, "[", 0) * type_in(declaration)->size;
      }
    };
    place(true);
    place(false);
    kernel_.static_shared = end - kSharedBegin;
  }

  int new_slot() { return kernel_.slots++; }

  int preset(Special what, uint64_t value) {
    const auto key = std::pair(what, value);
    const auto [found, fresh] = presets_.try_emplace(key, kernel_.slots);
    if (fresh) kernel_.presets.push_back({new_slot(), what, value});
    return found->second;
  }

  Instruction& emit(Op op, int line) {
    kernel_.code.emplace_back();
    kernel_.code.back().op = op;
    kernel_.code.back().line = line;
    return kernel_.code.back();
  }

  // The body of a function, whose parameters and results are slots of whoever calls it.
  void paste(const Function& function, const std::vector<int>& arguments, const std::vector<int>& results) {
    const std::string prefix = std::to_string(pasted_++) + ":";
    Scope names;
    for (size_t m = 0; m < arguments.size(); ++m) names[last_word(function.parameters[m])] = {arguments[m], {}};
    for (size_t m = 0; m < results.size(); ++m) names[last_word(function.results[m])] = {results[m], {}};
    auto outer = std::exchange(scopes_, {names});
    const auto outer_prefix = std::exchange(prefix_, prefix);
    const auto was_entry = std::exchange(in_entry_, function.entry);
    Statements statements(module_.text, function.body, function.line);
    for (int depth = 1; depth > 0;) {
      const auto statement = statements.next();
      if (!statement) refuse("expected the end of " + function.name, function.line);
      if (statement->kind == Statement::open) {
        scopes_.emplace_back();
        ++depth;
      } else if (statement->kind == Statement::close) {
        scopes_.pop_back();
        --depth;
      } else if (statement->kind == Statement::label) {
        labels_[prefix_ + statement->text] = static_cast<int>(kernel_.code.size());
      } else {
        decode(statement->text, statement->line);
      }
    }
    labels_[prefix + "end"] = static_cast<int>(kernel_.code.size());
    scopes_ = std::move(outer);
    prefix_ = outer_prefix;
    in_entry_ = was_entry;
  }

  void declare(const std::string& statement, int line) {
    const std::optional<Type> type = type_in(statement);
    if (!type) refuse("expected a type: " + statement, line);
    const size_t begin = statement.find_last_of('.');
    const size_t after = statement.find(' ', begin);
    for (const std::string& name : operands_of(statement.substr(after))) {
      const size_t range = name.find('<');
      if (range == std::string::npos) {
        scopes_.back()[name] = {new_slot(), *type};
        continue;
      }
      const int count = std::stoi(name.substr(range + 1));
      for (int m = 0; m < count; ++m) scopes_.back()[name.substr(0, range) + std::to_string(m)] = {new_slot(), *type};
    }
  }

  const Name* find(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto found = scope->find(name); found != scope->end()) return &found->second;
    return nullptr;
  }

  // A register, number, special register or address as a slot.
  int slot(const std::string& operand, int line) {
    if (const Name* name = find(operand)) return name->slot;
    static const std::map<std::string, Special> specials = {{"%tid.x", Special::thread},
                                                            {"%ntid.x", Special::threads},
                                                            {"%ctaid.x", Special::block},
                                                            {"%nctaid.x", Special::blocks},
                                                            {"%cluster_ctarank", Special::block_in_cluster}};
    if (const auto found = specials.find(operand); found != specials.end()) return preset(found->second, 0);
    if (const auto found = shared_.find(operand); found != shared_.end())
      return preset(Special::constant, found->second);
    if (const auto found = parameters_.find(operand); found != parameters_.end() && in_entry_)
      return preset(Special::parameters, found->second);
    if (operand == "_") return new_slot();
    const char first = operand.empty() ? ' ' : operand[0];
    if (operand.compare(0, 2, "0f") == 0) return preset(Special::constant, std::stoull(operand.substr(2), nullptr, 16));
    if (operand.compare(0, 2, "0d") == 0) return preset(Special::constant, std::stoull(operand.substr(2), nullptr, 16));
    if (first == '-' || std::isdigit(static_cast<unsigned char>(first)))
      return preset(Special::constant, first == '-' ? static_cast<uint64_t>(std::stoll(operand, nullptr, 0))
                                                    : std::stoull(operand, nullptr, 0));
    refuse("unknown operand " + operand, line);
  }

  std::vector<int> slots(const std::string& operand, int line) {
    if (operand.empty() || operand[0] != '{') return {slot(operand, line)};
    std::vector<int> all;
    for (const std::string& one : operands_of(inside(operand, line))) all.push_back(slot(one, line));
    return all;
  }

  // "[base + offset]"
  int address(const std::string& operand, Instruction& to, int line) {
    const std::string text = inside(operand, line);
    const size_t plus = text.find('+');
    if (plus != std::string::npos) to.offset = std::stoll(text.substr(plus + 1));
    return slot(text.substr(0, plus), line);
  }

  void decode(std::string text, int line) {
    if (text[0] == '.') {
      if (text.compare(0, 4, ".reg") == 0 || text.compare(0, 6, ".param") == 0) return declare(text, line);
      if (text.compare(0, 7, ".shared") == 0 || text.compare(0, 7, ".pragma") == 0 || text.compare(0, 4, ".loc") == 0)
        return;
      refuse("unknown directive " + text, line);
    }
    int guard = -1;
    bool unless = false;
    if (text[0] == '@') {
      const size_t end = text.find(' ');
      unless = text[1] == '!';
      guard = slot(text.substr(unless ? 2 : 1, end - (unless ? 2 : 1)), line);
      text = text.substr(text.find_first_not_of(' ', end));
    }
    const size_t end = std::min(text.find(' '), text.size());
    const std::string name = text.substr(0, end);
    const size_t begin = kernel_.code.size();
    instruction(name, cut(name, '.'), operands_of(text.substr(end)), line);
    if (guard < 0) return;
    if (kernel_.code.size() != begin + 1) refuse("a guard before " + name, line);
    kernel_.code.back().guard = guard;
    kernel_.code.back().unless = unless;
  }

  void call(const std::vector<std::string>& operands, int line) {
    // (result), name, (arguments) or name, (arguments) or name
    size_t at = 0;
    std::vector<int> results, arguments;
    const auto all = [&](const std::string& list) {
      std::vector<int> found;
      for (const std::string& one : operands_of(inside(list, line))) found.push_back(slot(one, line));
      return found;
    };
    if (operands.at(at)[0] == '(') results = all(operands[at++]);
    const std::string name = operands.at(at++);
    if (at < operands.size()) arguments = all(operands[at]);
    const auto found = module_.functions.find(name);
    if (found == module_.functions.end()) refuse("unknown function " + name, line);
    paste(found->second, arguments, results);
  }

  void instruction(const std::string& name, const std::vector<std::string>& words, std::vector<std::string> operands,
                   int line) {
    const auto has = [&](const char* word) { return std::find(words.begin(), words.end(), word) != words.end(); };
    const std::string& op = words[0];
    if (op == "call") return call(operands, line);

    std::vector<Type> types;
    for (const std::string& word : words)
      if (const auto type = type_of(word)) types.push_back(*type);
    const Type type = types.empty() ? Type{} : types.front(), from_type = types.empty() ? Type{} : types.back();

    Instruction i;
    i.line = line;
    i.type = type;
    i.from_type = from_type;
    i.flush = has("ftz");
    i.rounding = has("rz") || has("rzi")   ? Rounding::zero
                 : has("rp") || has("rpi") ? Rounding::up
                 : has("rm") || has("rmi") ? Rounding::down
                                           : Rounding::nearest;
    const auto done = [&](Op made, std::vector<int> to, std::vector<int> from) {
      i.op = made;
      i.to = std::move(to);
      i.from = std::move(from);
      kernel_.code.push_back(i);
    };
    const auto of = [&](size_t at) { return slot(operands.at(at), line); };
    const auto rest = [&](size_t at) {
      std::vector<int> all;
      for (; at < operands.size(); ++at) all.push_back(of(at));
      return all;
    };
    const auto several = [&](size_t at) { return slots(operands.at(at), line); };
    const auto where = [&](size_t at) { return address(operands.at(at), i, line); };

    static const std::map<std::string, Op> plain = {
        {"add", Op::add},     {"sub", Op::sub},   {"fma", Op::fma},     {"div", Op::div},     {"min", Op::min},
        {"max", Op::max},     {"neg", Op::neg},   {"abs", Op::abs},     {"sqrt", Op::sqrt},   {"ex2", Op::ex2},
        {"and", Op::bit_and}, {"or", Op::bit_or}, {"xor", Op::bit_xor}, {"not", Op::bit_not}, {"shl", Op::shl},
        {"shr", Op::shr},     {"popc", Op::popc}, {"brev", Op::brev},   {"cvt", Op::cvt},     {"selp", Op::selp},
        {"bfi", Op::bfi}};
    if (const auto found = plain.find(op); found != plain.end()) return done(found->second, {of(0)}, rest(1));

    if (op == "mul") {
      const bool whole = type.kind == Kind::real || has("lo");
      return done(whole ? Op::mul_lo : has("hi") ? Op::mul_hi : Op::mul_wide, {of(0)}, rest(1));
    }
    if (op == "mad" && has("lo")) return done(Op::mad_lo, {of(0)}, rest(1));
    if (op == "bfind" && has("shiftamt")) return done(Op::bfind_shift, {of(0)}, rest(1));
    if (op == "cvta") {
      // Addresses of parameters and of global memory are those of the host; shared memory has a window of its own.
      if (has("shared")) return done(has("to") ? Op::bit_and : Op::bit_or, {of(0)}, {of(1), window(has("to"))});
      return done(Op::mov, {of(0)}, {of(1)});
    }
    if (op == "mov") {
      if (operands.at(0)[0] == '{') return done(Op::split, several(0), {of(1)});
      if (operands.at(1)[0] == '{') return done(Op::join, {of(0)}, several(1));
      return done(Op::mov, {of(0)}, {of(1)});
    }
    if (op == "setp") {
      static const std::map<std::string, Test> tests = {{"eq", Test::eq},
                                                        {"ne", Test::ne},
                                                        {"lt", Test::lt},
                                                        {"le", Test::le},
                                                        {"gt", Test::gt},
                                                        {"ge", Test::ge},
                                                        {"ltu", Test::unordered_lt},
                                                        {"leu", Test::unordered_le},
                                                        {"gtu", Test::unordered_gt},
                                                        {"geu", Test::unordered_ge},
                                                        {"neu", Test::neu}};
      i.test = tests.at(words.at(1));
      return done(Op::setp, {of(0)}, rest(1));
    }
    // Parameters of calls have names; those of the kernel are memory, which registers point to.
    const auto passed = [&](size_t at) -> const Name* {
      const std::string base = cut(inside(operands.at(at), line), '+')[0];
      return has("param") && base[0] != '%' ? find(base) : nullptr;
    };
    if (op == "ld" && has("param"))
      if (const Name* value = passed(1)) return done(Op::mov, several(0), {value->slot});
    if (op == "st" && has("param")) {
      const Name* value = passed(0);
      if (!value) refuse("expected a parameter of a call: " + operands[0], line);
      return done(Op::mov, {value->slot}, several(1));
    }
    if (op == "ld") {
      const int base = where(1);
      return done(has("param") ? Op::load_param : Op::load, several(0), {base, space(has("shared"))});
    }
    if (op == "st") {
      std::vector<int> from{where(0), space(has("shared"))};
      for (const int one : several(1)) from.push_back(one);
      return done(Op::store, {}, from);
    }
    if (op == "atom" && has("add")) {
      const int base = where(1);
      return done(Op::atom_add, {of(0)}, {base, space(has("shared")), of(2)});
    }
    if (op == "shfl") {
      const auto both = cut(operands.at(0), '|');
      i.exchange = has("bfly")   ? Exchange::butterfly
                   : has("idx")  ? Exchange::index
                   : has("down") ? Exchange::down
                                 : Exchange::up;
      std::vector<int> to;
      for (const std::string& one : both) to.push_back(slot(one, line));
      return done(Op::shuffle, to, rest(1));
    }
    if (op == "vote") {
      i.vote = has("ballot") ? Vote::ballot : has("any") ? Vote::any : Vote::all;
      return done(Op::vote, {of(0)}, rest(1));
    }
    if (op == "bar" && has("warp")) return done(Op::warp_sync, {}, rest(0));
    if (op == "bar" || (op == "barrier" && has("sync"))) return done(Op::block_sync, {}, rest(0));
    if (op == "barrier" && has("cluster")) return done(has("arrive") ? Op::cluster_arrive : Op::cluster_wait, {}, {});
    if (op == "bra") {
      jumps_.emplace_back(kernel_.code.size(), prefix_ + operands.at(0));
      return done(Op::branch, {}, {});
    }
    if (op == "ret" || op == "exit") {
      if (in_entry_ || op == "exit") return done(Op::exit, {}, {});
      jumps_.emplace_back(kernel_.code.size(), prefix_ + "end");
      return done(Op::branch, {}, {});
    }
    if (op == "trap") return done(Op::trap, {}, {});
    if (op == "fence" || op == "membar" || op == "setmaxnreg" || name == "wgmma.fence.sync.aligned" || op == "prefetch")
      return;  // order is what the machine of block.h has by itself, and registers do not run out there
    if (op == "mapa") return done(Op::map_address, {of(0)}, rest(1));
    if (op == "mbarrier" && has("init")) {
      const int base = where(0);
      return done(Op::barrier_init, {}, {base, of(1)});
    }
    if (op == "mbarrier" && has("expect_tx")) {
      const int base = where(1);
      return done(Op::barrier_expect, {}, {base, of(2)});
    }
    if (op == "mbarrier" && has("arrive")) {
      const int base = where(1);
      return done(Op::barrier_arrive, {}, {base});
    }
    if (op == "mbarrier" && has("try_wait") && has("parity")) {
      const int base = where(1);
      return done(Op::barrier_try_wait, {of(0)}, {base, of(2)});
    }
    if (op == "cp" && has("tensor")) {
      // [to], [map, {coordinates}], [barrier] (, receivers), hint
      const auto map = operands_of(inside(operands.at(1), line));
      i.multicast = has("multicast::cluster");
      const int to = slot(inside(operands.at(0), line), line);
      std::vector<int> from{to, slot(map.at(0), line), slot(inside(operands.at(2), line), line)};
      from.push_back(i.multicast ? of(3) : from[0]);
      for (const int one : slots(map.at(1), line)) from.push_back(one);
      return done(Op::copy_tensor, {}, from);
    }
    if (op == "cp" && has("wait_all")) return done(Op::copy_wait, {}, {});
    if (op == "cp" && has("async") && has("ca")) {
      const int to = slot(inside(operands.at(0), line), line);
      if (operands.at(2) != "4") refuse("expected copies of 4 bytes", line);
      return done(Op::copy_word, {}, {to, slot(inside(operands.at(1), line), line), of(3)});
    }
    if (op == "mma" && has("m16n8k16") && has("row") && has("col")) {
      std::vector<int> from;
      for (size_t at = 1; at < 4; ++at)
        for (const int one : several(at)) from.push_back(one);
      return done(Op::mma, several(0), from);
    }
    if (op == "wgmma" && has("mma_async")) {
      // {sums}, a, b, accumulate, 1, 1 (, 0, 0): what else it could be asked for is not in these kernels
      for (size_t at = 4; at < operands.size(); ++at)
        if (operands[at] != (at < 6 ? "1" : "0")) refuse("expected plain operands of " + name, line);
      if (!has("bf16") || !has("f32")) refuse("expected bfloat16 operands", line);
      const std::string shape = words.at(4);
      i.columns = std::stoi(shape.substr(shape.find('n') + 1));
      if (shape != "m64n" + std::to_string(i.columns) + "k16") refuse("unknown shape " + shape, line);
      return done(Op::wgmma, several(0), rest_of(operands, 1, 4, line));
    }
    if (op == "wgmma" && has("commit_group")) return done(Op::wgmma_commit, {}, {});
    if (op == "wgmma" && has("wait_group")) return done(Op::wgmma_wait, {}, rest(0));
    refuse("unknown instruction " + name, line);
  }

  std::vector<int> rest_of(const std::vector<std::string>& operands, size_t at, size_t end, int line) {
    std::vector<int> all;
    for (; at < end; ++at) all.push_back(slot(operands.at(at), line));
    return all;
  }

  int window(bool leave) { return preset(Special::constant, leave ? ~kSharedWindow : kSharedWindow); }
  int space(bool shared) { return preset(Special::constant, shared ? kSharedWindow : 0); }

  const Module& module_;
  Kernel kernel_;
  std::vector<Scope> scopes_;
  std::map<std::pair<Special, uint64_t>, int> presets_;
  std::map<std::string, uint64_t> parameters_, shared_;
  std::map<std::string, int> labels_;
  std::vector<std::pair<size_t, std::string>> jumps_;
  std::string prefix_;
  int pasted_ = 0;
  bool in_entry_ = true;
};

}  // namespace

std::map<std::string, std::shared_ptr<const Kernel>> parse(const std::string& text) {
  const Module module = outline(text);
  std::map<std::string, std::shared_ptr<const Kernel>> kernels;
  for (const auto& [name, function] : module.functions)
    if (function.entry) kernels[name] = std::make_shared<Kernel>(Decoder(module, function).take());
  return kernels;
}

}  // namespace repsim::ptx