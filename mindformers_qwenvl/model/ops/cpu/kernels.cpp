// Decoding on a CPU: operators that read each weight once, at the memory's speed.
//
// Called by MindSpore's `ops.Custom(func_type="aot")`; kernels.py beside this file compiles and checks it. Each function
// takes (count, pointers, ranks, shapes, type names, stream, extra) of its inputs and then its output, and returns 0, or
// another number for what it does not support. Activations are float32; weights float32, float16 or bfloat16; all sums
// are float32.

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------- threads

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How often to look before going to sleep: about 20 microseconds. MindSpore's own threads need the processors between
// two operators, so waiting must be passive.
constexpr int kLooks = 1000;

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), process_(getpid()) {
    for (int index = 1; index < threads; ++index) {
      workers_.emplace_back([this, index] { Work(index); });
    }
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto &worker : workers_) worker.join();
  }
  int threads() const { return threads_; }
  bool belongs_here() const { return process_ == getpid(); }

  // `part(thread)` in every thread; returns when all are done.
  void Run(const std::function<void(int)> &part) {
    if (threads_ == 1) return part(0);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      part_ = &part;
      running_.store(threads_ - 1, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    part(0);
    Wait([this] { return running_.load(std::memory_order_acquire) == 0; });
  }

  // Within `part`: go on when all threads are here.
  void Meet() {
    if (threads_ == 1) return;
    const int phase = phase_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      here_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      Wait([this, phase] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  template <typename Done>
  static void Wait(Done done) {
    for (int look = 0; !done(); ++look) {
      if (look < kLooks) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void Work(int index) {
    for (unsigned seen = 0;;) {
      for (int look = 0; look < kLooks && round_.load(std::memory_order_acquire) == seen; ++look) pause_briefly();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this, seen] { return round_.load(std::memory_order_acquire) != seen; });
        seen = round_.load(std::memory_order_relaxed);
        if (stop_) return;
      }
      (*part_)(index);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int threads_;
  const pid_t process_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> running_{0}, here_{0}, phase_{0};
  const std::function<void(int)> *part_ = nullptr;
  bool stop_ = false;
};

std::mutex one_at_a_time;
int wanted_threads = 1;
Pool *pool = nullptr;

Pool &pool_of_this_process() {
  if (pool != nullptr && !pool->belongs_here()) pool = nullptr;  // after a fork its threads are gone: leave it alone
  if (pool != nullptr && pool->threads() != wanted_threads) {
    delete pool;
    pool = nullptr;
  }
  if (pool == nullptr) pool = new Pool(wanted_threads);
  return *pool;
}

struct Range {
  int64_t begin, end;
};

// The part of 0..count of one thread, in whole multiples of `step`.
Range share(int64_t count, int thread, int threads, int64_t step = 1) {
  const int64_t steps = (count + step - 1) / step;
  auto at = [&](int64_t t) { return std::min(count, steps * t / threads * step); };
  return {at(thread), at(thread + 1)};
}

// ---------------------------------------------------------------- numbers

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(Brain x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}
inline float to_float(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#elif defined(__aarch64__)
  __fp16 half;
  std::memcpy(&half, &x.bits, sizeof(half));
  return half;
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  uint32_t bits;
  if (rest >= 0x7c00) {
    bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    bits = sign | ((rest << 13) + 0x38000000);
  } else {
    const float small = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
#endif
}

inline Vec load(const float *from) {
  Vec out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}
inline Vec load(const Brain *from) {
  typedef uint16_t Short __attribute__((vector_size(kLanes * 2)));
  typedef uint32_t Wide __attribute__((vector_size(kLanes * 4)));
  Short narrow;
  std::memcpy(&narrow, from, sizeof(narrow));
  return reinterpret_cast<Vec>(__builtin_convertvector(narrow, Wide) << 16);
}
inline Vec load(const Half *from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))));
#elif defined(__F16C__)
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
#else
  Vec out;
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = to_float(from[lane]);
  return out;
#endif
}

inline float sum(Vec x) {
  float out = 0;
  for (int lane = 0; lane < kLanes; ++lane) out += x[lane];
  return out;
}

inline float dot(const float *a, const float *b, int64_t size) {
  Vec total = {};
  int64_t k = 0;
  for (; k + kLanes <= size; k += kLanes) total += load(a + k) * load(b + k);
  float out = sum(total);
  for (; k < size; ++k) out += a[k] * b[k];
  return out;
}

// ---------------------------------------------------------------- arrays

enum class Type { kFloat, kHalf, kBrain };

struct Array {
  const void *data;
  Type type;
};

bool type_of(const char *name, Type *type) {
  if (std::strcmp(name, "float32") == 0) return *type = Type::kFloat, true;
  if (std::strcmp(name, "float16") == 0) return *type = Type::kHalf, true;
  if (std::strcmp(name, "bfloat16") == 0) return *type = Type::kBrain, true;
  return false;
}

float at(Array array, int64_t index) {
  switch (array.type) {
    case Type::kHalf: return to_float(static_cast<const Half *>(array.data)[index]);
    case Type::kBrain: return to_float(static_cast<const Brain *>(array.data)[index]);
    default: return static_cast<const float *>(array.data)[index];
  }
}

// ---------------------------------------------------------------- products

constexpr int kMostRows = 8, kMostInTile = 4;
constexpr size_t kPage = 4096;

template <int value>
using Number = std::integral_constant<int, value>;

// y[r][n] = sum over k of x[r][k] * w[n][k] for kRows rows of x and kCount of w; with `more`, y[r][n] += scale times
// that. kSums sums of each do not wait for one another.
template <int kRows, int kCount, int kSums, typename T>
void tile(const float *x, const T *w, float *y, int64_t width, int64_t outputs, bool more, float scale) {
  Vec total[kCount][kSums][kRows] = {};
  int64_t k = 0;
  auto step = [&](auto sums) {
    for (int part = 0; part < decltype(sums)::value; ++part, k += kLanes) {
      Vec read[kCount];
      for (int i = 0; i < kCount; ++i) {
        read[i] = load(w + i * width + k);
        // What comes next: while several rows of x are multiplied, there is time to fetch it.
        if constexpr (kRows > 1) __builtin_prefetch(w + (i + kCount) * width + k);
      }
      for (int r = 0; r < kRows; ++r) {
        const Vec row = load(x + r * width + k);
        for (int i = 0; i < kCount; ++i) total[i][part][r] += read[i] * row;
      }
    }
  };
  while (k + kSums * kLanes <= width) step(Number<kSums>());
  while (k + kLanes <= width) step(Number<1>());
  for (int i = 0; i < kCount; ++i) {
    for (int r = 0; r < kRows; ++r) {
      for (int part = 1; part < kSums; ++part) total[i][0][r] += total[i][part][r];
      float out = sum(total[i][0][r]);
      for (int64_t rest = k; rest < width; ++rest) out += x[r * width + rest] * to_float(w[i * width + rest]);
      float &place = y[r * outputs + i];
      place = more ? place + scale * out : out;
    }
  }
}

// The rows of w in `range`, kTogether at once, so that each number of x is loaded once for all of them. Rows of x beyond
// kMostInTile, whose sums would not fit into the registers, find these rows of w in the nearest cache.
template <int kRows, typename T, int kTogether = kRows == 2 ? 4 : 3, int kSums = 1>
void rows_product(const float *x, const T *w, float *y, int64_t width, int64_t outputs, Range range, bool more,
                  float scale) {
  constexpr int kFirst = kRows < kMostInTile ? kRows : kMostInTile;
  auto tiles = [&](auto count, int64_t n) {
    constexpr int kCount = decltype(count)::value;
    tile<kFirst, kCount, kSums>(x, w + n * width, y + n, width, outputs, more, scale);
    if constexpr (kRows > kFirst) {
      const float *others = x + kFirst * width;
      tile<kRows - kFirst, kCount, kSums>(others, w + n * width, y + kFirst * outputs + n, width, outputs, more, scale);
    }
  };
  int64_t n = range.begin;
  for (; n + kTogether <= range.end; n += kTogether) tiles(Number<kTogether>(), n);
  for (; n < range.end; ++n) tiles(Number<1>(), n);
}

template <typename T>
void product_of(const float *x, const T *w, float *y, int rows, int64_t width, int64_t outputs, Range range, bool more,
                float scale) {
  // One row of x waits for the memory alone, which reads best where several rows of w follow one another at once, each
  // a page or more; shorter ones are read one after the other.
  constexpr int kLong = sizeof(T) == sizeof(float) ? 8 : 4;
  switch (rows) {
    case 1:
      if (width * sizeof(T) < kPage) return rows_product<1, T, 1, 4>(x, w, y, width, outputs, range, more, scale);
      return rows_product<1, T, kLong>(x, w, y, width, outputs, range, more, scale);
    case 2: return rows_product<2>(x, w, y, width, outputs, range, more, scale);
    case 3: return rows_product<3>(x, w, y, width, outputs, range, more, scale);
    case 4: return rows_product<4>(x, w, y, width, outputs, range, more, scale);
    case 5: return rows_product<5>(x, w, y, width, outputs, range, more, scale);
    case 6: return rows_product<6>(x, w, y, width, outputs, range, more, scale);
    case 7: return rows_product<7>(x, w, y, width, outputs, range, more, scale);
    default: return rows_product<8>(x, w, y, width, outputs, range, more, scale);
  }
}

void product(const float *x, Array w, float *y, int rows, int64_t width, int64_t outputs, Range range, bool more = false,
             float scale = 1) {
  switch (w.type) {
    case Type::kHalf:
      return product_of(x, static_cast<const Half *>(w.data), y, rows, width, outputs, range, more, scale);
    case Type::kBrain:
      return product_of(x, static_cast<const Brain *>(w.data), y, rows, width, outputs, range, more, scale);
    default:
      return product_of(x, static_cast<const float *>(w.data), y, rows, width, outputs, range, more, scale);
  }
}

// ---------------------------------------------------------------- a layer's small parts

// y = x / rms(x) * weight, of one row.
void rms_norm(const float *x, Array weight, float *y, int64_t size, float eps) {
  const float scale = 1.0f / std::sqrt(dot(x, x, size) / size + eps);
  for (int64_t i = 0; i < size; ++i) y[i] = x[i] * scale * at(weight, i);
}

// Half-rotation of one head, in place; the first half of sin is negative already.
void rotate(float *x, const float *cos, const float *sin, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    x[i] = first * cos[i] + second * sin[i];
    x[i + half] = second * cos[i + half] + first * sin[i + half];
  }
}

struct Cache {
  float *keys, *values;  // a row of `size` for each head of each slot: slot * heads + head
  int64_t heads, size, block;
};

// softmax(q k^T / sqrt(size)) v of one head over the `length` first tokens of the row's blocks. `scores`: room for them.
void attend(const float *q, const Cache &cache, const int32_t *blocks, int64_t head, int64_t length, float *scores,
            float *out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(cache.size));
  float highest = -std::numeric_limits<float>::infinity();
  auto row = [&](int64_t t) { return ((blocks[t / cache.block] * cache.block + t % cache.block) * cache.heads + head) * cache.size; };
  for (int64_t t = 0; t < length; ++t) {
    scores[t] = dot(q, cache.keys + row(t), cache.size) * scale;
    highest = std::fmax(highest, scores[t]);
  }
  float total = 0;
  for (int64_t t = 0; t < length; ++t) total += scores[t] = std::exp(scores[t] - highest);
  std::memset(out, 0, cache.size * sizeof(float));
  for (int64_t t = 0; t < length; ++t) {
    const float weight = scores[t] / total;
    const float *value = cache.values + row(t);
    for (int64_t i = 0; i < cache.size; ++i) out[i] += weight * value[i];
  }
}

}  // namespace

extern "C" {

// How many threads the operators use from now on.
void SetThreads(int threads) {
  std::lock_guard<std::mutex> lock(one_at_a_time);
  wanted_threads = threads < 1 ? 1 : threads;
}

// x [R, K] (any rank), w [N, K] -> x w^T, [R, N] of 1 to 8 rows.
int Linear(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) {
  Type type;
  if (count != 3 || ranks[1] != 2 || std::strcmp(types[0], "float32") != 0 || !type_of(types[1], &type)) return 1;
  const int64_t outputs = shapes[1][0], width = shapes[1][1];
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < ranks[0]; ++axis) rows *= shapes[0][axis];
  if (rows < 1 || rows > kMostRows || shapes[0][ranks[0] - 1] != width) return 2;
  const float *x = static_cast<const float *>(data[0]);
  float *y = static_cast<float *>(data[2]);
  std::lock_guard<std::mutex> lock(one_at_a_time);
  Pool &threads = pool_of_this_process();
  threads.Run([&](int thread) {
    product(x, {data[1], type}, y, rows, width, outputs, share(outputs, thread, threads.threads(), 4));
  });
  return 0;
}

// A decoder layer for the newest token of each row, see `DecoderLayer` in kernels.py for the inputs.
int DecoderLayer(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) {
  enum { X, NORM1, WQ, WK, WV, BQ, BK, BV, WO, NORM2, W1, W3, W2, COS, SIN, LOGN, KEYS, VALUES, SLOTS, TABLES, LENGTHS,
         NUMBERS, A_QKV, B_Q, B_K, B_V, A_O, B_O, A_1, B_1, A_3, B_3, A_2, B_2, OUT, COUNT };
  constexpr int kParts = 5;  // that may have an adapter of their own: q, k and v together, then wo, w1, w3, w2
  if (count != COUNT || ranks[X] != 3 || ranks[TABLES] != 2 || ranks[COS] != 4) return 1;
  for (int index : {X, COS, SIN, LOGN, KEYS, VALUES, NUMBERS}) {
    if (std::strcmp(types[index], "float32") != 0) return 2;
  }
  for (int index : {SLOTS, TABLES, LENGTHS}) {
    if (std::strcmp(types[index], "int32") != 0) return 2;
  }
  Array array[COUNT];
  for (int index = NORM1; index <= B_2; ++index) {
    if (index == COS) index = A_QKV;
    array[index].data = data[index];
    if (!type_of(types[index], &array[index].type)) return 2;
  }
  const int down_of[kParts] = {A_QKV, A_O, A_1, A_3, A_2};
  int64_t rank[kParts], most_rank = 0;  // 0: no adapter
  for (int part = 0; part < kParts; ++part) {
    rank[part] = ranks[down_of[part]] == 2 ? shapes[down_of[part]][0] : 0;
    most_rank = std::max(most_rank, rank[part]);
  }
  const int64_t rows = shapes[X][0], width = shapes[X][2], inner = shapes[W1][0];
  const int64_t size = shapes[COS][3], heads = width / size, most_blocks = shapes[TABLES][1];
  if (rows < 1 || rows > kMostRows || shapes[X][1] != 1 || heads * size != width) return 3;
  const float *numbers = static_cast<const float *>(data[NUMBERS]);
  const float eps = numbers[0], *scales = numbers + 2;
  const Cache cache{static_cast<float *>(data[KEYS]), static_cast<float *>(data[VALUES]), heads, size,
                    static_cast<int64_t>(numbers[1])};
  const float *x = static_cast<const float *>(data[X]), *log_n = static_cast<const float *>(data[LOGN]);
  const float *cos = static_cast<const float *>(data[COS]), *sin = static_cast<const float *>(data[SIN]);
  const int64_t angles = shapes[COS][1] * size;  // from row to row: the tables may be repeated for every head
  const bool scaled = shapes[LOGN][0] == rows && ranks[LOGN] == 4;
  const int32_t *slots = static_cast<const int32_t *>(data[SLOTS]);
  const int32_t *tables = static_cast<const int32_t *>(data[TABLES]);
  const int32_t *lengths = static_cast<const int32_t *>(data[LENGTHS]);
  float *out = static_cast<float *>(data[OUT]);

  std::lock_guard<std::mutex> lock(one_at_a_time);
  Pool &threads = pool_of_this_process();
  static std::vector<float> room;
  const int64_t most = most_blocks * cache.block, wide = rows * width;
  room.resize(6 * wide + 2 * rows * (inner + most_rank) + threads.threads() * most);
  float *normed = room.data(), *q = normed + wide, *k = q + wide, *v = k + wide, *context = v + wide;
  float *hidden = context + wide, *gate = hidden + wide, *up = gate + rows * inner;
  float *low = up + rows * inner, *other_low = low + rows * most_rank, *scores = other_low + rows * most_rank;

  threads.Run([&](int thread) {
    auto mine = [&](int64_t total, int64_t step = 1) { return share(total, thread, threads.threads(), step); };
    auto norm = [&](const float *from, Array weight) {
      for (int64_t r = mine(rows).begin; r < mine(rows).end; ++r) {
        rms_norm(from + r * width, weight, normed + r * width, width, eps);
      }
      threads.Meet();
    };
    // Low-rank products of one part: `down` by all threads before, `up` beside the part's own product.
    auto down = [&](int part, const float *from, int64_t inputs, float *to) {
      if (rank[part] == 0) return;
      product(from, array[down_of[part]], to, rows, inputs, rank[part], mine(rank[part]));
      threads.Meet();
    };
    auto up_by = [&](int part, int index, const float *from, float *to, int64_t outputs, Range range) {
      if (rank[part] != 0) product(from, array[index], to, rows, rank[part], outputs, range, true, scales[part]);
    };
    norm(x, array[NORM1]);
    down(0, normed, width, low);
    const Range of_width = mine(width, 4);
    float *projected[] = {q, k, v};
    for (int part = 0; part < 3; ++part) {
      product(normed, array[WQ + part], projected[part], rows, width, width, of_width);
      up_by(0, B_Q + part, low, projected[part], width, of_width);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = of_width.begin; n < of_width.end; ++n) projected[part][r * width + n] += at(array[BQ + part], n);
      }
    }
    threads.Meet();
    const Range pairs = mine(rows * heads);  // of row and head
    for (int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
      const int64_t r = pair / heads, head = pair % heads, place = r * width + head * size;
      rotate(q + place, cos + r * angles, sin + r * angles, size);
      rotate(k + place, cos + r * angles, sin + r * angles, size);
      if (scaled) {
        for (int64_t i = 0; i < size; ++i) q[place + i] *= log_n[r];
      }
      if (slots[r] >= 0) {
        const int64_t row = (slots[r] * heads + head) * size;
        std::memcpy(cache.keys + row, k + place, size * sizeof(float));
        std::memcpy(cache.values + row, v + place, size * sizeof(float));
      }
      const int64_t length = std::min<int64_t>(lengths[r], most);
      attend(q + place, cache, tables + r * most_blocks, head, length, scores + thread * most, context + place);
    }
    threads.Meet();
    down(1, context, width, low);
    product(context, array[WO], hidden, rows, width, width, of_width);
    up_by(1, B_O, low, hidden, width, of_width);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = of_width.begin; n < of_width.end; ++n) hidden[r * width + n] += x[r * width + n];
    }
    threads.Meet();
    norm(hidden, array[NORM2]);
    const Range of_inner = mine(inner, 4);
    down(2, normed, width, low);
    down(3, normed, width, other_low);
    product(normed, array[W1], up, rows, width, inner, of_inner);
    up_by(2, B_1, low, up, inner, of_inner);
    product(normed, array[W3], gate, rows, width, inner, of_inner);
    up_by(3, B_3, other_low, gate, inner, of_inner);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = of_inner.begin; n < of_inner.end; ++n) {
        const float g = gate[r * inner + n];
        up[r * inner + n] *= g / (1.0f + std::exp(-g));
      }
    }
    threads.Meet();
    down(4, up, inner, low);
    product(up, array[W2], out, rows, inner, width, of_width);
    up_by(4, B_2, low, out, width, of_width);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = of_width.begin; n < of_width.end; ++n) out[r * width + n] += hidden[r * width + n];
    }
  });
  return 0;
}
}
