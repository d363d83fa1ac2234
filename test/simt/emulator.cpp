// Host emulator: compiled without -fsanitize=thread; kernels may be compiled with it (hooks at the end).
#include "simt/emulator.cuh"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

extern "C" void simt_switch(void** save, void* to);
asm(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\npopq %rcx\njmp *%rcx\n.size "
    "simt_switch,.-simt_switch\n");

namespace simt::emulator {
thread_local const Indices* indices;
thread_local unsigned char* sharedMemory;
Options options;
using Idx = Indices;
enum Op : int {
  OP_SYNCWARP,
  OP_SHFL,
  OP_LDSM,
  OP_LDSM_T,
  OP_MMA,
  OP_WGMMA_FENCE,
  OP_WGMMA_COMMIT,
  OP_WGMMA_WAIT,
  OP_WGMMA,
  OP_STSM,
  OP_BALLOT
};
using Exec = void (*)(void** args, uint32_t mask);
struct Stats {
  long races, uninit, oob, diverge, switches, collectives;
};
struct Opt {
  unsigned seed;
  bool quiet;
};
namespace {
constexpr size_t STACK = 64 << 10, SMEM_MAX = 256 << 10, ARENA = size_t(4) << 30, REDZONE = 256;
enum State : uint8_t { READY, W_COLL, W_BAR, W_MBAR, DONE };
struct Copy {
  unsigned char* s;
  const unsigned char* g;
  int size, bytes;
};
struct Wg {
  float* d[128];
  uint32_t a[128][4];
  Product p;
};
struct Thread {
  Idx idx;
  void* sp;
  unsigned char* stack;
  State st;
  int t, lane, warp;
  int op;
  uint32_t mask;
  void* arg;
  const char* file;
  int line;  // where it waits
  uint64_t* mbar;
  uint32_t parity;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
  std::vector<uint32_t> vc;
  uint32_t fence_clk;
};
struct Pending {
  int op;
  uint32_t mask, arrived;
  const char* file;
  int line;
};
struct Warp {
  std::vector<Pending> pend;
};
struct Bar {
  int arrived = 0;
  std::vector<int> waiting;
  std::vector<uint32_t> vc;
};
struct Group {
  std::vector<std::vector<Wg>> committed;
  std::vector<Wg> open;
};
struct Mbar {
  uint32_t count, left, phase;
  int64_t tx;
  std::vector<uint32_t> vc;
};
struct RD {
  uint32_t clk;
  uint8_t lane;
};
struct Shadow {
  uint32_t wclk;
  uint16_t wtid;
  uint8_t init, flight, proxy;
};  // per shared byte
struct GShadow {
  uint32_t block;
  uint8_t init, alloc, atomic;
};
struct Rec {
  const void* a[32];
  uint32_t have;
};
struct PcInfo {
  size_t sz;
  bool wr, sh;
  long execs = 0, waves = 0, ideal = 0;
};

unsigned char* arena;
size_t gtop;
GShadow* gsh;
std::vector<Thread> th;
std::vector<Warp> warps;
std::vector<Group> wgs;
Bar bars[48];
std::map<uint64_t*, Mbar> mbars;
std::vector<Shadow> sh;
std::vector<RD> rd;
int NW, T;
size_t smem_n, smem_dyn;
std::vector<int> q;
size_t qh;
int ndone;
void* main_sp;
Thread* cur;
uint32_t block_no;
Opt opt;
Stats st;
unsigned rng;
void (*fn)(const void*);
const void* ctx;
bool dead, checks;
std::map<std::string, long> seen;
std::map<std::pair<const void*, int>, std::vector<Rec>> recs;
std::map<const void*, PcInfo> pcs;
std::map<std::pair<const void*, int>, uint32_t> cnt;  // (pc, thread) -> executions

std::string where(const void* pc) {
  static std::map<const void*, std::string> memo;
  auto& m = memo[pc];
  if (m.size()) return m;
  char cmd[256], buf[512] = "?";
  snprintf(cmd, sizeof cmd, "addr2line -s -e $(readlink /proc/$PPID/exe) %#zx 2>/dev/null", (size_t)pc - 1);
  if (FILE* f = popen(cmd, "r")) {
    if (!fgets(buf, sizeof buf, f)) strcpy(buf, "?");
    pclose(f);
  }
  buf[strcspn(buf, "\n")] = 0;
  return m = buf;
}
std::vector<Finding> findings;
std::map<const void*, Statistics> stats;
Statistics* cs;
void say(const std::string& key, const std::string& msg) {
  if (seen[key]++) return;
  Kind k = key[0] == 'o'                              ? Kind::OUT_OF_BOUNDS
           : key[0] == 'u'                            ? Kind::UNINITIALISED
           : key[0] == 'a' || key == "tma"            ? Kind::MISALIGNED
           : key.substr(0, 2) == "fl" || key == "cpx" ? Kind::IN_FLIGHT
           : key[0] == 'p'                            ? Kind::PROXY
           : key[0] == 'm'                            ? Kind::SYNCHRONISATION
                                                      : Kind::RACE;
  findings.push_back({k, msg});
  if (!opt.quiet) fprintf(stderr, "  simt: %s\n", msg.c_str());
}
std::string who(int t) {
  return "thread " + std::to_string(t) + " (warp " + std::to_string(t / 32) + " lane " + std::to_string(t % 32) + ")";
}

void sw(Thread* from, Thread* to) {
  st.switches++;
  cur = to;
  void** save = from ? &from->sp : &main_sp;
  if (to) indices = &to->idx;
  simt_switch(save, to ? to->sp : main_sp);
}
Thread* next() {
  if (dead || qh == q.size()) return nullptr;
  if (opt.seed) {
    rng = rng * 1664525u + 1013904223u;
    size_t j = qh + (rng >> 8) % (q.size() - qh);
    std::swap(q[qh], q[j]);
  }
  Thread* n = &th[q[qh++]];
  if (qh > 4096) {
    q.erase(q.begin(), q.begin() + qh);
    qh = 0;
  }
  return n;
}
void wake(int t) {
  th[t].st = READY;
  q.push_back(t);
}
void yield_to_next() {
  Thread* me = cur;
  Thread* n = next();
  if (n != me) sw(me, n);
}
void entry() {
  fn(ctx);
  cur->st = DONE;
  ndone++;
  yield_to_next();
  abort();
}
void bump(Thread& t) {
  if (checks) t.vc[t.t]++;
}
void join(const std::vector<int>& who_) {  // full join among a set of threads
  if (!checks) return;
  std::vector<uint32_t> m(T, 0);
  for (int t : who_)
    for (int i = 0; i < T; i++) m[i] = std::max(m[i], th[t].vc[i]);
  for (int t : who_) {
    th[t].vc = m;
    th[t].vc[t]++;
  }
}
[[noreturn]] void die() {
  dead = true;
  sw(cur, nullptr);
  abort();
}
const char* opname(int o) {
  static const char* n[] = {"syncwarp",     "shfl",       "ldmatrix", "ldmatrix.trans", "mma",   "wgmma.fence",
                            "wgmma.commit", "wgmma.wait", "wgmma",    "stmatrix",       "ballot"};
  return n[o];
}
std::string base(const char* f) {
  std::string s = f;
  auto p = s.rfind('/');
  return p == s.npos ? s : s.substr(p + 1);
}
std::string loc(const char* f, int l) { return base(f) + ":" + std::to_string(l); }
}  // namespace
int lane() { return cur->lane; }

static void collective(Op op, uint32_t mask, bool aligned, void* arg, Exec ex, const char* file, int line) {
  Thread& me = *cur;
  Warp& w = warps[me.warp];
  int live = std::min(32, T - me.warp * 32);
  if (live < 32) mask &= (1u << live) - 1;
  me.op = op;
  me.mask = mask;
  me.arg = arg;
  me.file = file;
  me.line = line;
  Pending* p = nullptr;
  size_t pi = 0;
  for (; pi < w.pend.size(); pi++)
    if (w.pend[pi].op == op && w.pend[pi].mask == mask && !(w.pend[pi].arrived >> me.lane & 1) &&
        (!aligned || (w.pend[pi].line == line && w.pend[pi].file == file))) {
      p = &w.pend[pi];
      break;
    }
  if (!p) {
    w.pend.push_back({op, mask, 0, file, line});
    p = &w.pend.back();
    pi = w.pend.size() - 1;
  }
  p->arrived |= 1u << me.lane;
  if (p->arrived != mask) {
    me.st = W_COLL;
    yield_to_next();
    return;
  }
  w.pend.erase(w.pend.begin() + pi);
  Thread* b = &th[me.warp * 32];
  if (ex) {
    void* args[32];
    for (int i = 0; i < 32; i++) args[i] = mask >> i & 1 ? b[i].arg : nullptr;
    ex(args, mask);
  }
  if (op == OP_SYNCWARP && checks) {
    std::vector<int> v;
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) v.push_back(b[i].t);
    join(v);
  }
  for (int i = 0; i < 32; i++)
    if ((mask >> i & 1) && i != me.lane) wake(b[i].t);
}
static void emu_bar(int id, int n, bool wait, const char* file, int line) {
  if (id < 16) cs->barriers++;
  Thread& me = *cur;
  Bar& b = bars[id];
  if (!n) n = T;
  me.file = file;
  me.line = line;
  me.op = id;
  b.arrived++;
  const bool order = checks && id < 16;
  if (order) {
    if (b.vc.empty()) b.vc.assign(T, 0);
    for (int i = 0; i < T; i++) b.vc[i] = std::max(b.vc[i], me.vc[i]);
    bump(me);
  }
  auto acquire = [&](Thread& t) {
    for (int i = 0; i < T; i++)
      if (i != t.t) t.vc[i] = std::max(t.vc[i], b.vc[i]);
  };
  if (b.arrived == n) {
    b.arrived = 0;
    if (order) {
      if (wait) acquire(me);
      for (int t : b.waiting) acquire(th[t]);
      b.vc.assign(T, 0);
    }
    for (int t : b.waiting) wake(t);
    b.waiting.clear();
    return;
  }
  if (wait) {
    b.waiting.push_back(me.t);
    me.st = W_BAR;
    yield_to_next();
  }
}

// ---------------------------------------------------------------- checks
enum { RDA, WRA };
static void access(const void* a, size_t n, int wr, const char* what, const void* pc, const char* file, int line,
                   bool proxy_async = false, bool setflight = false, bool endflight = false) {
  if (!cur || !checks) return;
  auto L = [&] { return file ? loc(file, line) : where(pc); };
  Thread& me = *cur;
  size_t off = (const unsigned char*)a - arena;
  if (off < SMEM_MAX) {
    if (off + n > smem_n) {
      st.oob++;
      say("oobs" + L(), std::string("out-of-bounds shared ") + (wr ? "write" : "read") + " (" + what + "), byte " +
                            std::to_string(off) + " of " + std::to_string(smem_n) + ", " + who(me.t) + " at " + L());
      return;
    }
    for (size_t i = off; i < off + n; i++) {
      Shadow& s = sh[i];
      RD* r = &rd[i * NW];
      if (s.flight && !endflight) {
        st.races++;
        say("fl" + L(), std::string(wr ? "write" : "read") + " of shared byte " + std::to_string(i) +
                            " while an async copy into it is in flight (no wait), " + who(me.t) + " at " + L());
      }
      if (!wr && !s.init && !s.flight) {
        st.uninit++;
        say("un" + L(), "read of uninitialised shared byte " + std::to_string(i) + " (" + what + ") by " + who(me.t) +
                            " at " + L());
      }
      if (s.wclk && s.wtid != me.t && s.wclk > me.vc[s.wtid]) {
        st.races++;
        say("rw" + L(), std::string("RACE on shared byte ") + std::to_string(i) + ": " + (wr ? "write" : "read") +
                            " by " + who(me.t) + " at " + L() + " is not ordered after the write by " + who(s.wtid));
      }
      if (proxy_async && s.proxy && s.wclk > th[s.wtid].fence_clk) {
        st.races++;
        say("px" + L(), "async-proxy read of shared byte " + std::to_string(i) +
                            " written through the generic proxy without fence.proxy.async, at " + L());
      }
      if (wr) {
        for (int w = 0; w < NW; w++) {
          int t = w * 32 + r[w].lane;
          if (r[w].clk && t != me.t && r[w].clk > me.vc[t]) {
            st.races++;
            say("wr" + L(), "RACE on shared byte " + std::to_string(i) + ": write by " + who(me.t) + " at " + L() +
                                " is not ordered after the read by " + who(t));
          }
        }
        s.wclk = me.vc[me.t];
        s.wtid = me.t;
        s.init = 1;
        s.proxy = !proxy_async;
        if (setflight) s.flight = 1;
        if (endflight) s.flight = 0;
      } else {
        RD& x = r[me.warp];
        if (me.vc[me.t] >= x.clk) {
          x.clk = me.vc[me.t];
          x.lane = me.lane;
        }
      }
    }
  } else if (off < ARENA) {
    for (size_t i = off; i < off + n; i++) {
      GShadow& g = gsh[i - SMEM_MAX];
      if (!g.alloc) {
        st.oob++;
        say("oobg" + L(), std::string("out-of-bounds global ") + (wr ? "write" : "read") + " (" + what + ") by block " +
                              std::to_string(block_no - 1) + " " + who(me.t) + " at " + L());
        return;
      }
      if (!wr && !g.init) {
        st.uninit++;
        say("ung" + L(), "read of uninitialised global memory by " + who(me.t) + " at " + L());
      }
      if (g.block && g.block != block_no && !g.atomic) {
        st.races++;
        say("gr" + L(), std::string("RACE between blocks on global memory: ") + (wr ? "write" : "read") + " by block " +
                            std::to_string(block_no - 1) + " after a write by block " + std::to_string(g.block - 1) +
                            " at " + L());
      }
      if (wr) {
        g.block = block_no;
        g.init = 1;
        g.atomic = 0;
      }
    }
  }
}
static void fold(const Rec& r, PcInfo& p) {  // wavefronts (shared) or sectors (global)
  p.execs++;
  int per = p.sz >= 16 ? 8 : p.sz == 8 ? 16 : 32;
  if (p.sh)
    for (int g = 0; g < 32; g += per) {
      std::vector<size_t> words;
      for (int i = g; i < g + per; i++)
        if (r.have >> i & 1)
          for (size_t k = 0; k < std::max<size_t>(1, p.sz / 4); k++) words.push_back((size_t)r.a[i] / 4 + k);
      std::sort(words.begin(), words.end());
      words.erase(std::unique(words.begin(), words.end()), words.end());
      int deg[32] = {}, mx = 0;
      for (size_t w : words) mx = std::max(mx, ++deg[w & 31]);
      p.waves += mx;
      p.ideal += !words.empty();
    }
  else {
    std::vector<size_t> sec;
    long bytes = 0;
    for (int i = 0; i < 32; i++)
      if (r.have >> i & 1) {
        bytes += p.sz;
        for (size_t k = 0; k < p.sz; k += 32) sec.push_back(((size_t)r.a[i] + k) / 32);
        sec.push_back(((size_t)r.a[i] + p.sz - 1) / 32);
      }
    std::sort(sec.begin(), sec.end());
    sec.erase(std::unique(sec.begin(), sec.end()), sec.end());
    p.waves += sec.size();
    p.ideal += (bytes + 31) / 32;
  }
}
static void gmark(const void* p, size_t n) {
  size_t off = (unsigned char*)p - arena;
  if (off >= SMEM_MAX && off < ARENA)
    for (size_t i = 0; i < n; i++) {
      auto& g = gsh[off - SMEM_MAX + i];
      g.block = block_no;
      g.atomic = 1;
      g.init = 1;
    }
}
static std::map<std::string, const void*> lockey;
static void record(const void* pc, const void* a, size_t n, bool wr) {
  if (!cur || !checks) return;
  size_t off = (const unsigned char*)a - arena;
  if (off >= ARENA) return;
  PcInfo& p = pcs[pc];
  p.sz = n;
  p.wr = wr;
  p.sh = off < SMEM_MAX;
  uint32_t k = cnt[{pc, cur->t}]++;
  auto& v = recs[{pc, cur->warp}];
  if (v.size() <= k) v.resize(k + 1);
  Rec& r = v[k];
  r.a[cur->lane] = a;
  r.have |= 1u << cur->lane;
}
static const void* key_of(const char* file, int line, const char* what) {
  std::string s = loc(file, line) + " " + what;
  auto& k = lockey[s];
  if (!k) k = strdup(s.c_str());
  return k;
}
void report_lines() {
  for (auto& [pc, p] : pcs) {
    bool named = false;
    for (auto& [s, k] : lockey)
      if (k == pc) named = true;
    fprintf(stderr, "  %-34s %s %s %2zuB: %6ld warp-instr, %s %ld (ideal %ld)%s\n",
            named ? (const char*)pc : where(pc).c_str(), p.sh ? "shared" : "global", p.wr ? "st" : "ld", p.sz, p.execs,
            p.sh ? "wavefronts" : "32B-sectors", p.waves, p.ideal, p.waves > p.ideal ? "  <-- excess" : "");
  }
  pcs.clear();
}
static void bulk_read(const void* p, size_t n, const char* what, const char* f, int l, bool proxy = false) {
  access(p, n, RDA, what, nullptr, f, l, proxy);
}

// ---------------------------------------------------------------- warp operations

struct LdsmArg {
  uint32_t* r;
  const void* p;
  int n;
  bool trans;
};
void ldmatrix(uint32_t* r, const void* p, int n, bool trans, Site at) {
  const char* file = at.file;
  int line = at.line;
  const bool mine = n == 4 || cur->lane < n * 8;
  if (cur->lane == 0) cs->ldmatrix++;
  if (mine && ((size_t)p & 15)) {
    st.oob++;
    say("al", "misaligned ldmatrix address at " + loc(file, line));
  }
  if (checks && mine) {
    bulk_read(p, 16, "ldmatrix", file, line);
    record(key_of(file, line, "ldmatrix"), p, 16, false);
  }
  LdsmArg a{r, p, n, trans};
  collective(
      trans ? OP_LDSM_T : OP_LDSM, ~0u, true, &a,
      [](void** v, uint32_t) {
        uint16_t m[4][8][8];
        int n = ((LdsmArg*)v[0])->n;
        for (int i = 0; i < n * 8; i++) memcpy(m[i >> 3][i & 7], ((LdsmArg*)v[i])->p, 16);
        for (int l = 0; l < 32; l++) {
          auto* x = (LdsmArg*)v[l];
          int r0 = l >> 2, c = (l & 3) * 2;
          for (int k = 0; k < n; k++)
            x->r[k] = x->trans ? m[k][c][r0] | (uint32_t)m[k][c + 1][r0] << 16
                               : m[k][r0][c] | (uint32_t)m[k][r0][c + 1] << 16;
        }
      },
      file, line);
}
struct StsmArg {
  const uint32_t* r;
  void* p;
  bool trans;
};
void stmatrix(void* p, const uint32_t* r, int, bool trans, Site at) {
  if ((size_t)p & 15) {
    st.oob++;
    say("al", "misaligned stmatrix address at " + loc(at.file, at.line));
  }
  StsmArg a{r, p, trans};
  if (checks) access(p, 16, WRA, "stmatrix", nullptr, at.file, at.line);
  collective(
      OP_STSM, ~0u, true, &a,
      [](void** v, uint32_t) {
        for (int l = 0; l < 32; l++) {
          auto* x = (StsmArg*)v[l];
          int r0 = l >> 2, c = (l & 3) * 2;
          for (int k = 0; k < 4; k++)
            for (int e = 0; e < 2; e++) {
              uint16_t h = x->r[k] >> (16 * e);
              int row = x->trans ? c + e : r0, col = x->trans ? r0 : c + e;
              memcpy((unsigned char*)((StsmArg*)v[k * 8 + row])->p + col * 2, &h, 2);
            }
        }
      },
      at.file, at.line);
}
static float decode(Element t, uint32_t h) {
  return t == Element::BF16 ? bf16_to_f32((uint16_t)h) : f16_to_f32((uint16_t)h);
}
struct MmaArg {
  Element t;
  float* d;
  const uint32_t *a, *b;
};
void mma(Element t, float* d, const uint32_t* a, const uint32_t* b, Site at) {
  MmaArg g{t, d, a, b};
  if (cur->lane == 0) cs->mma++;
  collective(
      OP_MMA, ~0u, true, &g,
      [](void** v, uint32_t) {
        float A[16][16], B[16][8];
        double C[16][8];
        Element t = ((MmaArg*)v[0])->t;
        const int K = t == Element::TF32 ? 8 : 16;
        for (int l = 0; l < 32; l++) {
          auto* x = (MmaArg*)v[l];
          int g = l >> 2, q = l & 3, c = q * 2;
          if (K == 8) {
            for (int i = 0; i < 4; i++) A[g + (i & 1) * 8][q + (i >> 1) * 4] = f32_from_bits(x->a[i] & 0xffffe000);
            for (int i = 0; i < 2; i++) B[q + i * 4][g] = f32_from_bits(x->b[i] & 0xffffe000);
          } else {
            for (int i = 0; i < 8; i++)
              A[g + ((i >> 1 & 1) ? 8 : 0)][c + (i & 1) + (i >= 4 ? 8 : 0)] =
                  decode(t, x->a[i >> 1] >> (16 * (i & 1)) & 0xffff);
            for (int i = 0; i < 4; i++)
              B[c + (i & 1) + (i >= 2 ? 8 : 0)][g] = decode(t, x->b[i >> 1] >> (16 * (i & 1)) & 0xffff);
          }
          for (int i = 0; i < 4; i++) C[g + (i >= 2 ? 8 : 0)][c + (i & 1)] = x->d[i];
        }
        for (int i = 0; i < 16; i++)
          for (int k = 0; k < K; k++)
            for (int j = 0; j < 8; j++) C[i][j] += (double)A[i][k] * B[k][j];
        for (int l = 0; l < 32; l++) {
          auto* x = (MmaArg*)v[l];
          int g = l >> 2, c = (l & 3) * 2;
          for (int i = 0; i < 4; i++) x->d[i] = (float)C[g + (i >= 2 ? 8 : 0)][c + (i & 1)];
        }
      },
      at.file, at.line);
}
struct ShflArg {
  uint64_t v, out;
  int src;
};
uint64_t shuffle(uint64_t v, int src, Site at) {
  ShflArg a{v, 0, src};
  if (cur->lane == 0) cs->shuffles++;
  collective(
      OP_SHFL, ~0u, false, &a,
      [](void** x, uint32_t m) {
        for (int i = 0; i < 32; i++)
          if (m >> i & 1) {
            auto* q = (ShflArg*)x[i];
            q->out = x[q->src] ? ((ShflArg*)x[q->src])->v : 0xdeadbeefdeadbeefull;
          }
      },
      at.file, at.line);
  return a.out;
}
uint32_t ballot(bool p, Site at) {
  ShflArg a{p, 0, 0};
  if (cur->lane == 0) cs->shuffles++;
  collective(
      OP_BALLOT, ~0u, false, &a,
      [](void** x, uint32_t m) {
        uint32_t r = 0;
        for (int i = 0; i < 32; i++)
          if (m >> i & 1) r |= (uint32_t)((ShflArg*)x[i])->v << i;
        for (int i = 0; i < 32; i++)
          if (m >> i & 1) ((ShflArg*)x[i])->out = r;
      },
      at.file, at.line);
  return (uint32_t)a.out;
}
void copyAsync(void* s, const void* g, int size, int bytes, Site at) {
  const char* file = at.file;
  int line = at.line;
  if (((size_t)s | (size_t)g) & (size - 1)) {
    st.oob++;
    say("al", "misaligned cp.async at " + loc(file, line));
  }
  if (bytes < 0 || bytes > size) {
    st.oob++;
    say("oz", "cp.async of " + std::to_string(bytes) + " bytes at " + loc(file, line));
    return;
  }
  long o0 = st.oob;
  cs->asyncBytes += bytes;
  if (checks) {
    if (bytes) {
      access(g, bytes, RDA, "cp.async source", nullptr, file, line);
      record(key_of(file, line, "cp.async src"), g, bytes, false);
    }
    access(s, size, WRA, "cp.async destination", nullptr, file, line, false, true);
    record(key_of(file, line, "cp.async dst"), s, size, true);
  }
  if (st.oob == o0) cur->open.push_back({(unsigned char*)s, (const unsigned char*)g, size, bytes});
}
void commitCopies(Site) {
  cur->groups.push_back(std::move(cur->open));
  cur->open.clear();
}
void waitCopies(int n, Site) {  // the copies happen only here: a missing wait is seen in the numbers too
  auto& g = cur->groups;
  while ((int)g.size() > n) {
    for (auto& c : g.front()) {
      memset(c.s, 0, c.size);
      memcpy(c.s, c.g, c.bytes);
      access(c.s, c.size, WRA, "cp.async", nullptr, "cp.async.wait", 0, false, false, true);
    }
    g.erase(g.begin());
  }
}
void syncthreads(Site a) { emu_bar(0, 0, true, a.file, a.line); }
void syncwarp(uint32_t mask, Site a) { collective(OP_SYNCWARP, mask, false, nullptr, nullptr, a.file, a.line); }
void barrier(int id, int n, bool waits, Site a) { emu_bar(id, n, waits, a.file, a.line); }
uint32_t loadAcquire(const uint32_t* p, Site) { return *p; }
void addRelease(uint32_t* p, uint32_t v, Site) {
  *p += v;
  if (checks) gmark(p, 4);
}
void sleep(Site) {}
void nonCoherent(const void*, size_t, Site) {}
void setMaxRegisters(int, Site) {}
void fenceBarrierInit(Site) {}

// ---------------------------------------------------------------- Hopper: mbarrier, TMA, wgmma
void initBarrier(uint64_t* b, uint32_t n, Site) { mbars[b] = Mbar{n, n, 0, 0, std::vector<uint32_t>(checks ? T : 0)}; }
static Mbar& mb(uint64_t* b, const char* f, int l) {
  auto it = mbars.find(b);
  if (it == mbars.end()) {
    say("mb", "use of an mbarrier that was not initialised at " + loc(f, l));
    st.diverge++;
    die();
  }
  return it->second;
}
static void mb_check(uint64_t* b, Mbar& m) {
  if (m.left || m.tx) return;
  m.phase ^= 1;
  m.left = m.count;
  for (auto& t : th)
    if (t.st == W_MBAR && t.mbar == b && t.parity != m.phase) {
      if (checks)
        for (int i = 0; i < T; i++) t.vc[i] = std::max(t.vc[i], m.vc[i]);
      wake(t.t);
    }
}
void arrive(uint64_t* b, uint32_t tx, Site at) {
  const char* file = at.file;
  int line = at.line;
  Mbar& m = mb(b, file, line);
  if (!m.left) {
    say("mbo", "more arrivals than the mbarrier's count at " + loc(file, line));
    st.diverge++;
    die();
  }
  if (checks) {
    for (int i = 0; i < T; i++) m.vc[i] = std::max(m.vc[i], cur->vc[i]);
    bump(*cur);
  }
  m.tx += tx;
  m.left--;
  mb_check(b, m);
}
void wait(uint64_t* b, uint32_t parity, Site at) {
  const char* file = at.file;
  int line = at.line;
  Mbar& m = mb(b, file, line);
  if (m.phase != parity) {
    if (checks)
      for (int i = 0; i < T; i++) cur->vc[i] = std::max(cur->vc[i], m.vc[i]);
    return;
  }
  cur->mbar = b;
  cur->parity = parity;
  cur->file = file;
  cur->line = line;
  cur->st = W_MBAR;
  yield_to_next();
}
void fenceProxyAsync(Site) {
  if (checks) cur->fence_clk = cur->vc[cur->t];
}
static size_t swizzled(Swizzle m, size_t a) {
  return m == Swizzle::B128 ? a ^ ((a >> 7 & 7) << 4) : m == Swizzle::B64 ? a ^ ((a >> 7 & 3) << 4) : a;
}
template <class F>
static void each(const TensorMap& m, const int* at, F f) {
  size_t lin = 0, es = m.strides[0];
  const uint32_t b1 = m.box[1], b2 = m.rank > 2 ? m.box[2] : 1, b3 = m.rank > 3 ? m.box[3] : 1;
  for (uint32_t w = 0; w < b3; w++)
    for (uint32_t z = 0; z < b2; z++)
      for (uint32_t y = 0; y < b1; y++)
        for (uint32_t x = 0; x < m.box[0]; x++, lin += es) {
          int64_t c[4] = {(int64_t)at[0] + x, (int64_t)at[1] + y, m.rank > 2 ? (int64_t)at[2] + z : 0,
                          m.rank > 3 ? (int64_t)at[3] + w : 0};
          bool in = true;
          const unsigned char* g = (const unsigned char*)m.base;
          for (int i = 0; i < m.rank; i++) {
            in = in && c[i] >= 0 && (uint64_t)c[i] < m.sizes[i];
            g += c[i] * (int64_t)m.strides[i];
          }
          f(swizzled(m.swizzle, lin), in ? g : nullptr, es);
        }
}
void tmaLoad(void* s, const TensorMap* m, int, const int* at, uint64_t* bar, Site site) {
  Mbar& b = mb(bar, site.file, site.line);
  size_t n = 0;
  if ((size_t)s & (m->swizzle == Swizzle::B128 ? 1023 : m->swizzle == Swizzle::B64 ? 511 : 127)) {
    st.oob++;
    say("tma", "misaligned TMA destination at " + loc(site.file, site.line));
  }
  each(*m, at, [&](size_t o, const unsigned char* g, size_t es) {
    unsigned char* d = (unsigned char*)s + o;
    n += es;
    access(d, es, WRA, "TMA destination", nullptr, site.file, site.line, true);
    if (g) {
      access(g, es, RDA, "TMA source", nullptr, site.file, site.line);
      memcpy(d, g, es);
    } else
      memset(d, 0, es);
  });
  cs->bulkBytes += n;
  if (checks) {
    for (int i = 0; i < T; i++) b.vc[i] = std::max(b.vc[i], cur->vc[i]);
  }
  b.tx -= (int64_t)n;
  mb_check(bar, b);
}
void tmaStore(const TensorMap* m, int, const int* at, const void* s, Site site) {
  each(*m, at, [&](size_t o, const unsigned char* g, size_t es) {
    const unsigned char* d = (const unsigned char*)s + o;
    cs->bulkBytes += es;
    access(d, es, RDA, "TMA source", nullptr, site.file, site.line, true);
    if (g) {
      access(g, es, WRA, "TMA destination", nullptr, site.file, site.line);
      memcpy((void*)g, d, es);
    }
  });
}
void commitStores(Site) {}
void waitStores(int, bool, Site) {}
uint64_t describe(const void* p, uint32_t lbo, uint32_t sbo, Swizzle w) {
  return (uint64_t)((((const unsigned char*)p - arena) & 0x3FFFF) >> 4) | (uint64_t)(lbo >> 4) << 16 |
         (uint64_t)(sbo >> 4) << 32 |
         (w == Swizzle::B128  ? 1ull
          : w == Swizzle::B64 ? 2ull
                              : 0ull)
             << 62;
}
// element (r along M/N, k) of an operand; mn_major when the "transpose" bit is set
static size_t desc_off(uint64_t d, int r, int k, bool mn) {
  size_t start = (d & 0x3fff) << 4, lbo = (d >> 16 & 0x3fff) << 4, sbo = (d >> 32 & 0x3fff) << 4;
  int mode = d >> 62;
  size_t row = mode == 1 ? 128 : mode == 2 ? 64 : 16;
  Swizzle w = mode == 1 ? Swizzle::B128 : mode == 2 ? Swizzle::B64 : Swizzle::NONE;
  if (!mn) return swizzled(w, start + (r / 8) * sbo + (r % 8) * row + (mode ? k * 2 : k / 8 * lbo + k % 8 * 2));
  int cols = (int)row / 2;
  return mode ? swizzled(w, start + (r / cols) * lbo + (k / 8) * sbo + (k % 8) * row + (r % cols) * 2)
              : start + (r / 8) * sbo + (k / 8) * lbo + (k % 8) * 16 + (r % 8) * 2;
}
struct WgArg {
  Op op;
  int n;
  float* d;
  Product p;
};
static void wg_run(Wg& w) {
  const int N = w.p.columns;
  std::vector<float> B(16 * N);
  float A[64][16];
  for (int k = 0; k < 16; k++) {
    for (int j = 0; j < N; j++) {
      const unsigned char* x = arena + desc_off(w.p.descB, j, k, w.p.transposedB);
      if (checks) access(x, 2, RDA, "wgmma B", nullptr, "wgmma.wait", 0, false);
      uint16_t h;
      memcpy(&h, x, 2);
      B[k * N + j] = decode(w.p.type, h);
    }
    for (int i = 0; i < 64; i++) {
      uint16_t h;
      if (w.p.a)
        h = w.a[(i >> 4) * 32 + (i & 7) * 4 + (k & 7) / 2][(k >> 3) * 2 + (i >> 3 & 1)] >> (16 * (k & 1));
      else {
        const unsigned char* x = arena + desc_off(w.p.descA, i, k, w.p.transposedA);
        if (checks) access(x, 2, RDA, "wgmma A", nullptr, "wgmma.wait", 0, false);
        memcpy(&h, x, 2);
      }
      A[i][k] = decode(w.p.type, h);
    }
  }
  for (int i = 0; i < 64; i++)
    for (int j = 0; j < N; j++) {
      float& d = w.d[(i >> 4) * 32 + (i & 7) * 4 + (j >> 1 & 3)][(j >> 3) * 4 + (i >> 3 & 1) * 2 + (j & 1)];
      double c = w.p.accumulate ? d : 0;
      for (int k = 0; k < 16; k++) c += (double)A[i][k] * B[k * N + j];
      d = (float)c;
    }
}
static void emu_wg(Op op, int n, float* d, const Product& p, Site at) {
  const char* file = at.file;
  int line = at.line;
  WgArg a{op, n, d, p};
  if (op == OP_WGMMA && (cur->t & 127) == 0) cs->wgmma++;
  if (op == OP_WGMMA && checks)
    for (int k = 0; k < 16; k++) {
      if (!p.a)
        for (int i = cur->t & 127; i < 64; i += 128)
          bulk_read(arena + desc_off(p.descA, i, k, p.transposedA), 2, "wgmma A", file, line, true);
      for (int i = cur->t & 127; i < p.columns; i += 128)
        bulk_read(arena + desc_off(p.descB, i, k, p.transposedB), 2, "wgmma B", file, line, true);
    }
  collective(
      op, ~0u, true, &a,
      [](void** v, uint32_t) {
        WgArg& x = *(WgArg*)v[0];
        Group& g = wgs[cur->warp / 4];
        int wp = cur->warp & 3;
        if (x.op == OP_WGMMA) {
          static std::map<Group*, std::vector<Wg>> part;
          auto& pv = part[&g];
          static std::map<Group*, std::array<size_t, 4>> idx;
          size_t k = idx[&g][wp]++;
          if (pv.size() <= k) pv.resize(k + 1);
          Wg& w = pv[k];
          w.p = x.p;
          for (int i = 0; i < 32; i++) {
            auto* y = (WgArg*)v[i];
            w.d[wp * 32 + i] = y->d;
            if (y->p.a) memcpy(w.a[wp * 32 + i], y->p.a, 16);
          }
          auto& ix = idx[&g];
          if (*std::min_element(ix.begin(), ix.end()) > 0) {
            g.open.push_back(pv.front());
            pv.erase(pv.begin());
            for (auto& z : ix) z--;
          }
        }
      },
      file, line);
  if (op == OP_WGMMA_COMMIT || op == OP_WGMMA_WAIT) {  // prototype: commit/wait synchronise the warpgroup
    emu_bar(16 + cur->warp / 4, 128, true, file, line);
    Group& g = wgs[cur->warp / 4];
    if ((cur->t & 127) == 0) {
      if (op == OP_WGMMA_COMMIT) {
        g.committed.push_back(std::move(g.open));
        g.open.clear();
      } else
        while ((int)g.committed.size() > n) {
          for (auto& w : g.committed.front()) wg_run(w);
          g.committed.erase(g.committed.begin());
        }
    }
    emu_bar(16 + cur->warp / 4, 128, true, file, line);
  }
}
void wgmmaFence(Site a) { emu_wg(OP_WGMMA_FENCE, 0, nullptr, {}, a); }
void wgmmaCommit(Site a) { emu_wg(OP_WGMMA_COMMIT, 0, nullptr, {}, a); }
void wgmmaWait(int n, Site a) { emu_wg(OP_WGMMA_WAIT, n, nullptr, {}, a); }
void wgmma(const Product& p, float* d, Site a) { emu_wg(OP_WGMMA, 0, d, p, a); }

// ---------------------------------------------------------------- launch
static std::recursive_mutex lock;
static std::map<void*, size_t> blocks;
static void boot() {
  if (arena) return;
  arena =
      (unsigned char*)mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  gsh = (GShadow*)mmap(nullptr, ARENA * sizeof(GShadow), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED || gsh == MAP_FAILED) {
    perror("mmap");
    exit(2);
  }
  gtop = SMEM_MAX + REDZONE;
}
void* allocate(size_t n, bool initialised) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  boot();
  unsigned char* p = arena + gtop;
  for (size_t i = 0; i < n; i++) gsh[gtop - SMEM_MAX + i] = {0, initialised, 1, 0};
  if (!initialised) memset(p, 0xff, n);
  blocks[p] = n;
  gtop += (n + 2 * REDZONE - 1) / REDZONE * REDZONE;
  gtop = (gtop + 1023) & ~size_t(1023);
  if (gtop > ARENA) {
    fprintf(stderr, "simt: out of memory\n");
    abort();
  }
  return p;
}
void free(void* p) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  auto it = blocks.find(p);
  if (it == blocks.end()) return;
  for (size_t i = 0; i < it->second; i++) gsh[(unsigned char*)p - arena - SMEM_MAX + i] = {};
  blocks.erase(it);
  if (blocks.empty()) gtop = SMEM_MAX + REDZONE;
}
void markInitialised(const void* p, size_t n) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  for (size_t i = 0; i < n; i++) gsh[(unsigned char*)p - arena - SMEM_MAX + i].init = 1;
}
long Report::count(Kind kind) const {
  long n = 0;
  for (auto& f : findings)
    if (f.kind == kind) n += f.times;
  return n;
}
Report report() {
  std::lock_guard<std::recursive_mutex> hold(lock);
  Report r;
  r.findings = std::move(findings);
  r.kernels = std::move(stats);
  findings.clear();
  stats.clear();
  seen.clear();
  return r;
}
std::string lines() { return ""; }
static std::vector<unsigned char*> stacks;
Status launch(const LaunchConfig& lc, void (*f)(const void*), const void* c) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  dim3 g = lc.grid, b = lc.block;
  size_t smem = lc.sharedBytes;
  Opt o{options.seed, options.quiet};
  if (smem > 227 << 10 || !(g.x && g.y && g.z && b.x && b.y && b.z)) return 1;
  if (b.x * b.y * b.z > 1024) return 9;
  boot();
  fn = f;
  ctx = c;
  opt = o;
  st = {};
  rng = o.seed;
  checks = lc.checked && options.checks;
  cs = &stats[lc.kernel];
  cs->launches++;
  T = b.x * b.y * b.z;
  NW = (T + 31) / 32;
  smem_dyn = (smem + 127) & ~size_t(127);
  smem_n = smem;
  block_no = 0;
  dead = false;
  while ((int)stacks.size() < T) {
    auto* s = (unsigned char*)mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(s, 4096, PROT_NONE);
    stacks.push_back(s + 4096);
  }
  if (checks)
    for (size_t i = 0; i < gtop - SMEM_MAX; i++) gsh[i].block = 0;
  th.resize(T);
  sharedMemory = arena;
  for (unsigned bz = 0; bz < g.z; bz++)
    for (unsigned by = 0; by < g.y; by++)
      for (unsigned bx = 0; bx < g.x && !dead; bx++) {
        block_no++;
        cs->blocks++;
        ndone = 0;
        q.clear();
        qh = 0;
        mbars.clear();
        warps.assign(NW, {});
        wgs.assign((NW + 3) / 4, {});
        for (auto& x : bars) x = Bar{};
        memset(arena, 0xFF, smem);  // poison: NaN
        if (checks) {
          sh.assign(smem_n, Shadow{});
          rd.assign(smem_n * NW, RD{});
          cnt.clear();
        }
        for (int t = 0; t < T; t++) {
          Thread& h = th[t];
          h.t = t;
          h.lane = t & 31;
          h.warp = t >> 5;
          h.stack = stacks[t];
          h.groups.clear();
          h.open.clear();
          h.fence_clk = 0;
          h.idx.thread = dim3(t % b.x, t / b.x % b.y, t / (b.x * b.y));
          h.idx.block = dim3(bx, by, bz);
          h.idx.blockSize = b;
          h.idx.gridSize = g;
          if (checks) {
            h.vc.assign(T, 0);
            h.vc[t] = 1;
          }
          void** sp = (void**)(h.stack + STACK) - 1;
          *--sp = (void*)entry;
          for (int i = 0; i < 6; i++) *--sp = nullptr;
          h.sp = sp;
          wake(t);
        }
        sw(nullptr, next());
        cur = nullptr;
        if (ndone < T) {
          dead = true;
          st.diverge++;
          findings.push_back({Kind::SYNCHRONISATION, "deadlock or divergence"});
          if (!o.quiet) {
            fprintf(stderr, "  simt: DEADLOCK or divergence in block (%u,%u,%u):\n", bx, by, bz);
            std::map<std::string, std::vector<int>> by_;
            for (auto& h : th) {
              std::string k = h.st == DONE     ? "exited"
                              : h.st == W_BAR  ? "at barrier " + std::to_string(h.op) + " " + loc(h.file, h.line)
                              : h.st == W_MBAR ? "at mbarrier wait " + loc(h.file, h.line)
                              : h.st == W_COLL ? std::string("at ") + opname(h.op) + " " + loc(h.file, h.line)
                                               : "ready";
              by_[k].push_back(h.t);
            }
            for (auto& [k, v] : by_) {
              std::string s;
              for (size_t i = 0; i < v.size();) {
                size_t j = i;
                while (j + 1 < v.size() && v[j + 1] == v[j] + 1) j++;
                s += (s.empty() ? "" : ",") + std::to_string(v[i]) + (j > i ? "-" + std::to_string(v[j]) : "");
                i = j + 1;
              }
              fprintf(stderr, "    threads %s %s\n", s.c_str(), k.c_str());
            }
          }
          break;
        }
        if (checks) {
          for (auto& h : th)
            if (!h.groups.empty() || !h.open.empty()) {
              say("cpx", "thread exits with cp.async copies never waited for");
              break;
            }
          for (auto& [k, v] : recs)
            for (auto& r : v)
              if (r.have) fold(r, pcs[k.first]);
          recs.clear();
        }
      }
  if (checks)
    for (auto& [k, p] : pcs) {
      auto& c = *cs;
      if (p.sh)
        c.sharedAccesses += p.execs, c.wavefronts += p.waves, c.idealWavefronts += p.ideal;
      else {
        c.globalAccesses += p.execs;
        (p.wr ? c.storeSectors : c.loadSectors) += p.waves;
        c.idealSectors += p.ideal;
      }
    }
  pcs.clear();
  return dead ? 702 : 0;
}
// ---------------------------------------------------------------- compiler hooks (g++ -fsanitize=thread emits the
// calls; libtsan is NOT linked)
static inline void hook(const void* a, size_t n, bool wr, const void* pc) {
  if ((size_t)((const unsigned char*)a - arena) >= ARENA || !cur) return;
  access(a, n, wr, "plain", pc, nullptr, 0);
  record(pc, a, n, wr);
}
}  // namespace simt::emulator
namespace simt {
Status make_tensor_map(TensorMap* m, MapType type, int rank, const void* base, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, Swizzle w) {
  if (rank < 2 || rank > 4 || ((size_t)base & 15)) return 1;
  *m = {};
  m->base = base;
  m->rank = rank;
  m->swizzle = w;
  m->strides[0] = type == MapType::F32 ? 4 : 2;
  for (int i = 0; i < rank; i++) {
    m->sizes[i] = sizes[i];
    m->box[i] = box[i];
    if (!box[i] || box[i] > 256) return 1;
    if (i) {
      m->strides[i] = strides[i - 1];
      if (strides[i - 1] & 15) return 1;
    }
  }
  size_t inner = box[0] * m->strides[0];
  if (inner & 15 || (w == Swizzle::B128 && inner > 128) || (w == Swizzle::B64 && inner > 64)) return 1;
  return 0;
}
}  // namespace simt
#define PC __builtin_return_address(0)
#define H(n)                                                                                   \
  extern "C" void __tsan_read##n(void* a) { simt::emulator::hook(a, n, false, PC); }           \
  extern "C" void __tsan_write##n(void* a) { simt::emulator::hook(a, n, true, PC); }           \
  extern "C" void __tsan_unaligned_read##n(void* a) { simt::emulator::hook(a, n, false, PC); } \
  extern "C" void __tsan_unaligned_write##n(void* a) { simt::emulator::hook(a, n, true, PC); }
H(1) H(2) H(4) H(8) H(16) extern "C" void __tsan_read_range(void* a, size_t n) {
  simt::emulator::hook(a, n, false, PC);
}
extern "C" void __tsan_write_range(void* a, size_t n) { simt::emulator::hook(a, n, true, PC); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
