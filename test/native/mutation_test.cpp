// Calls that are almost right: sizes, ranks, dtypes and options of valid calls changed at random. Each must end with an
// Error or a result, and under a sanitizer without a report. The JavaScript layer has checked by then that data has its
// shape's length and options their kind, so those hold here too.
#include <new>

#include "check.h"
#include "random.h"
#include "samples.h"

namespace rankone::test {
namespace {

constexpr int64_t kMostElements = 20000;
constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16};
constexpr int64_t kHuge[] = {int64_t{1} << 31, int64_t{1} << 40, int64_t{1} << 52};

// What the JavaScript layer takes as an array of indices has one dimension.
bool isIndexArray(const InputSpec& input) { return input.group && !(input.dtypes & ~kIndices); }

// New numbers in another shape; one with too many elements loses them.
Array redraw(const Array& like, Shape shape, Random& random) {
  int64_t count = 1;
  for (int64_t size : shape)
    if (size && __builtin_mul_overflow(count, size, &count)) count = INT64_MAX;
  if (count > kMostElements) shape[random.below(shape.size())] = 0;
  const DType dtype = like.tensor().dtype;
  return (kFloats & dtypeBit(dtype) ? random.normals(shape) : random.indices(shape, 12)).to(dtype);
}

int64_t otherSize(int64_t size, Random& random) {
  const int64_t choices[] = {0, 1, 2, size + 1, size > 0 ? size - 1 : 0, 2 * size, 17};
  return choices[random.below(std::size(choices))];
}

// One size of one argument.
void changeSize(Invocation& call, const std::string& name, Random& random) {
  const Array a = call.argument(name);
  Shape shape = a.shape();
  if (shape.empty()) return;
  int64_t& size = shape[random.below(shape.size())];
  size = otherSize(size, random);
  if (random.below(8) == 0) size = kHuge[random.below(std::size(kHuge))];
  call.in(name, redraw(a, shape, random));
}

// The same size wherever it stands, so that the arguments may still agree.
void changeSizeEverywhere(Invocation& call, Random& random) {
  constexpr int64_t kSizes[] = {1, 2, 4, 5, 9, 19, 38};
  const int64_t from = kSizes[random.below(std::size(kSizes))];
  const int64_t to = random.below(8) ? otherSize(from, random) : kHuge[random.below(std::size(kHuge))];
  Invocation changed = call;
  for (const InputSpec& input : call.spec().inputs) {
    const Array a = call.argument(input.name);
    if (!a.present() || isIndexArray(input)) continue;
    Shape shape = a.shape();
    for (int64_t& size : shape)
      if (size == from) size = to;
    changed.in(input.name, redraw(a, shape, random));
  }
  call = changed;
}

void changeRank(Invocation& call, const std::string& name, Random& random) {
  const Array a = call.argument(name);
  Shape shape = a.shape();
  if (random.below(2) && !shape.empty())
    shape.erase(shape.begin() + random.below(shape.size()));
  else if (shape.size() < kMaxRank)
    shape.insert(shape.begin() + random.below(shape.size() + 1), 1 + random.below(2));
  call.in(name, redraw(a, shape, random));
}

void changeDType(Invocation& call, const std::string& name, Random& random) {
  constexpr DType kAll[] = {DType::F32, DType::BF16, DType::F16, DType::I32, DType::I64};
  const Array a = call.argument(name);
  const DType to = kAll[random.below(std::size(kAll))];
  call.in(name, kFloats & dtypeBit(to) ? random.normals(a.shape()).to(to) : random.indices(a.shape(), 12).to(to));
}

// Sequences' starts and slots of a pool: right ones of another kind, or one value off.
void changeIndices(Invocation& call, const std::string& name, Random& random) {
  const Array a = call.argument(name);
  const bool wide = random.below(2);
  constexpr double kValues[] = {-1, 0, 1, 2, 7, 18, 19, 20, 2147483647, -2147483648.0};
  constexpr double kWideValues[] = {1e18, -9e18, 4294967296.0, 4294967303.0};
  Array changed = a.to(wide ? DType::I64 : DType::I32);
  if (changed.size() && random.below(4)) {
    const bool huge = wide && random.below(2);
    changed.set(random.below(changed.size()), huge ? kWideValues[random.below(4)] : kValues[random.below(10)]);
  }
  if (random.below(4) == 0 && a.size()) {  // one fewer, or one more at the end
    Values values = changed.values();
    random.below(2) ? values.pop_back() : values.push_back(values.back());
    changed = Array({static_cast<int64_t>(values.size())}, values, changed.tensor().dtype);
  }
  call.in(name, changed);
}

int choiceCount(const char* choices) {
  int n = 1;
  for (; *choices; ++choices) n += *choices == '|';
  return n;
}

void changeOption(Invocation& call, Random& random) {
  const auto options = call.spec().options;
  if (options.empty()) return;
  const OptionSpec& o = options[random.below(options.size())];
  const std::string name = argumentName(o);
  constexpr double kIntegers[] = {-1, 0, 1, 2, 3, 7, 16, 32, 128, 1e9, -1e9, 9007199254740991.0};
  constexpr double kNumbers[] = {0, -1, 0.5, 1, 1e30, -1e300, 1e-300, INFINITY, NAN};
  switch (o.kind) {
    case OptionKind::Flag: call.set(name, static_cast<double>(random.below(2))); return;
    case OptionKind::Integer: call.set(name, kIntegers[random.below(std::size(kIntegers))]); return;
    case OptionKind::Number: call.set(name, kNumbers[random.below(std::size(kNumbers))]); return;
    case OptionKind::Choice: call.set(name, static_cast<double>(random.below(choiceCount(o.choices)))); return;
    case OptionKind::Pair: {
      const double low = kNumbers[random.below(std::size(kNumbers))],
                   high = kNumbers[random.below(std::size(kNumbers))];
      call.setPair(o.name, low, high);
      return;
    }
    case OptionKind::PairHigh:
    case OptionKind::Device: return;
  }
}

void mutate(Invocation& call, Random& random) {
  const auto inputs = call.spec().inputs;
  if (inputs.empty()) return changeOption(call, random);
  const InputSpec& input = inputs[random.below(inputs.size())];
  const std::string name = input.name;
  const bool present = call.argument(name).present();
  if (present && isIndexArray(input) && random.below(4)) return changeIndices(call, name, random);
  switch (random.below(10)) {
    case 0:
    case 1: changeOption(call, random); return;
    case 2:
      if (present) changeSize(call, name, random);
      return;
    case 3:
      if (present && !isIndexArray(input)) changeRank(call, name, random);
      return;
    case 4:
      if (present) changeDType(call, name, random);
      return;
    case 5: call.in(name, Array()); return;
    default: changeSizeEverywhere(call, random); return;
  }
}

Array slotsOf(int64_t rows) {
  Array slots({rows}, DType::I32);
  for (int64_t i = 0; i < rows; ++i) slots.set(i, static_cast<double>(rows - 1 - i));
  return slots;
}

std::string forwardOf(const std::string& function) { return function.substr(0, function.find("Backward")); }

void testFunction(const std::string& function, uint64_t seed) {
  Random random(seed);
  int ended = 0, refused = 0;
  const int rounds = quick() ? 40 : 400;
  for (int i = 0; i < rounds; ++i) {
    const SampleForm form{kDTypes[random.below(3)], random.below(3) == 0, random.below(3) == 0};
    Invocation call = sampleCall(function, form);
    std::unique_ptr<StateBuffer> state;
    if (call.spec().takesState && random.below(3) == 0) {
      const int64_t keyHeads = form.fused ? random.below(2) : 0, rows = form.packed ? 3 : 2;
      state = std::make_unique<StateBuffer>(rows + random.below(3), 2, 9 - random.below(8) / 7, 5, keyHeads);
      call.in("initialState", Array()).state(*state);
      if (call.argument("initialZ").present()) call.in("initialZ", Array());
      if (random.below(2)) call.in("stateIndices", slotsOf(rows));
    }
    const int changes = 1 + static_cast<int>(random.below(3));
    for (int j = 0; j < changes; ++j) mutate(call, random);
    if (call.spec().takesSaved && random.below(2))
      call.saved(sampleCall(forwardOf(function), form).set("saveForBackward", 1).run().saved);
    try {
      call.run();
      ++ended;
    } catch (const Error& e) {
      check(e.what()[0] != 0, "an error without a message");
      ++refused;
    } catch (const std::bad_alloc&) {
      ++refused;
    }
  }
  check(ended > 0 && refused > 0, "%d results and %d errors: expected some of both", ended, refused);
}

const bool added = [] {
  uint64_t seed = 0;
  for (const Entry& entry : entries()) {
    const std::string name = entry.name;
    addTest("mutated " + name, [name, seed = ++seed] { testFunction(name, seed); });
  }
  return true;
}();

TEST("every public function runs") {
  for (const Entry& entry : entries())
    for (const DType dtype : kDTypes)
      for (const bool packed : {false, true})
        for (const bool fused : {false, true}) sampleCall(entry.name, {dtype, packed, fused}).run();
}

}  // namespace
}  // namespace rankone::test
