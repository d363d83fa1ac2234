// Splits the scan of recurrence_head_scan.inl over heads and, where these are few, over groups of columns.
#include "kernels/recurrence_head_scan.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

void recurrenceScan(const RecurrenceForward& a) {
  const int64_t blocks = (a.V + kBlock - 1) / kBlock, heads = a.N * a.HV;
  // Few heads are split further, over groups of 32 columns. A column's arithmetic is the same in every group.
  const int64_t groupBlocks = 32 / kBlock > 0 ? 32 / kBlock : 1, groups = (blocks + groupBlocks - 1) / groupBlocks;
  const int64_t threads = numThreads();
  int64_t splits = 1;
  if (threads > 1 && heads % threads != 0 && heads < 4 * threads) splits = groups < threads ? groups : threads;
  const int64_t span = (groups + splits - 1) / splits * groupBlocks;
  parallelFor(heads * splits, a.cancel, [&](int64_t task) {
    const int64_t head = task / splits, b0 = task % splits * span, b1 = b0 + span < blocks ? b0 + span : blocks;
    if (b0 >= b1 || a.tokenForm(head / a.HV)) return;
    withCell(a, [&](auto gate, auto update) {
      HeadScan<decltype(gate), decltype(update)>(a, head / a.HV, head % a.HV, b0, b1).run();
    });
  });
}

void recurrenceScanColumns(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t column0, int64_t column1) {
  withCell(a, [&](auto gate, auto update) {
    const int64_t end = column1 < a.V ? column1 : a.V;
    HeadScan<decltype(gate), decltype(update)>(a, sequence, hv, column0 / kBlock, (end + kBlock - 1) / kBlock).run();
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
