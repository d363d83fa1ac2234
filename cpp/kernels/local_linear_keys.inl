// Blocks of keys for local linear attention, as they are for the scores, and less a reference key for all the rest.
// What the rest takes of keys is how far they stand from their mean: the difference of two products loses the digits
// that a part common to all keys takes up, where keys less one of them have no such part.
#include "kernels/attention_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kNoReference = -1;

// The position of a key that all queries see which share a panel with `row`, if possible all of kReferenceRows rows, so
// that a block is not shifted anew for every panel: their first query's own. One that some do not see would leave its
// trace with them. By position and mask alone, so that a query's bits do not depend on which come after it.
inline int64_t referenceOf(const AttentionArgs& a, const QueryRows& rows, int64_t row) {
  constexpr int64_t kReferenceRows = 128;
  for (const int64_t span : {kReferenceRows, int64_t{kQueries}}) {
    const int64_t first = row / span * span, low = std::max<int64_t>(0, rows.position(first));
    if (low >= rows.sequence->keys()) continue;
    if (low < a.mask.first || rows.position(first + span - 1) - low <= a.mask.left) return low;
  }
  return kNoReference;
}

// Rows stand as [kKeys, ldK], zeros behind the block's last where they are plain; columns as [K, kKeys].
class KeyBlock {
 public:
  KeyBlock(const AttentionArgs& a, const AttentionSequence& s, int64_t head)
      : a_(a),
        s_(s),
        head_(head),
        ldK_(padded(a.K)),
        scratch_(2 * (alignFloats(kKeys * ldK_) + alignFloats(kKeys * a.K)) + alignFloats(ldK_)) {
    plain_ = scratch_.take(alignFloats(kKeys * ldK_));
    shifted_ = scratch_.take(alignFloats(kKeys * ldK_));
    plainColumns_ = scratch_.take(alignFloats(kKeys * a.K));
    shiftedColumns_ = scratch_.take(alignFloats(kKeys * a.K));
    row_ = scratch_.take(alignFloats(ldK_));
  }

  void read(KeyRange keys) {
    KeyRows{a_.k, a_.cache.k, a_.K}.read(a_, s_, head_, keys, plain_);
    hasPlainColumns_ = false;
    shiftedBy_ = kNotShifted;
  }

  const float* plainColumns() {
    if (!hasPlainColumns_) transposed(plain_, ldK_, kKeys, a_.K, plainColumns_, kKeys);
    hasPlainColumns_ = true;
    return plainColumns_;
  }

  // Makes at least the rows and columns of `used`.
  void shift(int64_t reference, KeyRange used) {
    if (shiftedBy_ == reference && made_.begin <= used.begin && used.end <= made_.end) return;
    made_ = {used.begin / kLanes * kLanes, roundUp(used.end, kLanes)};
    const float* less = row(reference);
    Vec taint = zero();
    for (int64_t i = made_.begin * ldK_; i < made_.end * ldK_; i += ldK_)
      for (int64_t c = 0; c < ldK_; c += kLanes) {
        const Vec x = load(plain_ + i + c) - load(less + c);
        store(shifted_ + i + c, x);
        taint += x * 0.0f;
      }
    finite_ = sum(taint) == 0.0f;
    if (hasPlainColumns_ || shiftedBy_ != kNotShifted)
      shiftColumns(less);
    else
      transposed(shifted_ + made_.begin * ldK_, ldK_, made_.count(), a_.K, shiftedColumns_ + made_.begin, kKeys);
    shiftedBy_ = reference;
    ++version_;
  }

  const float* rows() const { return shifted_; }
  const float* columns() const { return shiftedColumns_; }
  bool isFinite() const { return finite_; }
  KeyRange made() const { return made_; }
  int64_t version() const { return version_; }  // of rows and columns

  // The key of a reference, [ldK]; 0 where it is not finite, for the other keys' sake.
  const float* row(int64_t reference) {
    if (rowOf_ == reference) return row_;
    std::memset(row_, 0, static_cast<size_t>(ldK_) * sizeof(float));
    if (reference != kNoReference)
      KeyRows{a_.k, a_.cache.k, a_.K}.forRuns(a_, s_, head_, {reference, reference + 1},
                                              [&](const void* tensor, int64_t row, int64_t, int64_t, int64_t) {
                                                widenRow(tensor, a_.keyDType, row, a_.K, row_);
                                              });
    for (int64_t c = 0; c < ldK_; c += kLanes) {
      const Vec x = load(row_ + c);
      store(row_ + c, select(x * 0.0f == 0.0f, x, zero()));
    }
    rowOf_ = reference;
    return row_;
  }

 private:
  static constexpr int64_t kNotShifted = -2;

  // Cheaper than to transpose again.
  void shiftColumns(const float* less) {
    const float* from = plainColumns();
    for (int64_t c = 0; c < a_.K; ++c) {
      const Vec x = splat(less[c]);
      for (int64_t i = made_.begin; i < made_.end; i += kLanes)
        store(shiftedColumns_ + c * kKeys + i, load(from + c * kKeys + i) - x);
    }
  }

  const AttentionArgs& a_;
  const AttentionSequence& s_;
  const int64_t head_, ldK_;
  Scratch scratch_;
  float *plain_, *shifted_, *plainColumns_, *shiftedColumns_, *row_;
  KeyRange made_{};
  int64_t shiftedBy_ = kNotShifted, rowOf_ = kNotShifted, version_ = 0;
  bool hasPlainColumns_ = false, finite_ = true;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
