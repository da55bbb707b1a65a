// What a small network spends its time on, each in one call: a multi-layer perceptron forward and backward, the losses
// of Q-learning and of critics with their gradients, the squashed Gaussian, and a step of Adam over a flat vector of
// parameters. Matrix products are those of the BLAS inside torch. Where torch may use several threads and there is work
// for them, each takes a share of the rows.
//
// Arrays are row-major. A network's parameters lie in one vector: of each layer the weights (out, in), then the
// biases (out). `spec` describes it: number of layers, sizes (layers + 1 numbers), activation behind each layer.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>
#ifdef __SSE2__
#include <immintrin.h>
#endif

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
int MKL_Set_Num_Threads_Local(int) __attribute__((weak));  // other BLASes have none
// Of the OpenMP that torch uses, if it does: another one's threads would compete with its own.
void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));
int omp_get_num_threads() __attribute__((weak));
int omp_get_thread_num() __attribute__((weak));
}
namespace at {
int get_num_threads();  // of torch; OpenMP itself has another number for each thread that calls
}

namespace {

// Numbers below 1e-38 count as zero while one of these lives. Moments of units without a gradient decay into that
// range, where a processor is a hundred times slower.
struct FlushToZero {
#ifdef __SSE2__
  const unsigned before = _mm_getcsr();
  FlushToZero() { _mm_setcsr(before | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before); }
#endif
};

// One thread for a product that is small, or one of several at once.
thread_local bool is_sharing = false;
struct Threads {
  const bool is_one;
  int before = 0;
  Threads(int64_t m, int64_t n, int64_t k)
      : is_one(MKL_Set_Num_Threads_Local && (is_sharing || m * n * k < (1 << 22))) {
    if (is_one) before = MKL_Set_Num_Threads_Local(1);
  }
  ~Threads() {
    if (is_one) MKL_Set_Num_Threads_Local(before);
  }
};

// f(0), ..., f(n - 1), each on one of torch's threads.
template <class F>
void at_once(int n, const F& f) {
  struct Work {
    const int n;
    const F& f;
    static void begin(void* given) {
      const Work& work = *static_cast<Work*>(given);
      const FlushToZero guard;
      const bool before = std::exchange(is_sharing, true);
      for (int i = omp_get_thread_num(); i < work.n; i += omp_get_num_threads()) work.f(i);
      is_sharing = before;
    }
  } work{n, f};
  if (n == 1) return f(0);
  GOMP_parallel(Work::begin, &work, unsigned(n), 0);
}

// How the rows of a minibatch are shared; `work` is the number of multiplications for each of them. A share has at
// least 32 rows, and there is but one where the whole would take a thread less than about 0.1 ms.
struct Shares {
  static constexpr int most = 64;
  const int64_t rows;
  const int n;
  Shares(int64_t rows, int64_t work) : rows(rows), n(number(rows, work)) {}
  static int number(int64_t rows, int64_t work) {
    if (!GOMP_parallel || is_sharing || rows * work < (1 << 21)) return 1;
    return int(std::max<int64_t>(1, std::min<int64_t>({at::get_num_threads(), rows / 32, most})));
  }
  int64_t first(int i) const { return rows * i / n; }
  // f(share, its first row, its number of rows)
  template <class F>
  void each(const F& f) const {
    at_once(n, [&](int i) { f(i, first(i), first(i + 1) - first(i)); });
  }
};

enum Activation { identity = 0, relu = 1, tanh_ = 2 };

void gemm(const char* a, const char* b, int m, int n, int k, const float* A, int lda, const float* B, int ldb,
          float* C, int ldc) {
  const float one = 1, zero = 0;
  const Threads threads(m, n, k);
  sgemm_(b, a, &n, &m, &k, &one, B, &ldb, A, &lda, &zero, C, &ldc);  // BLAS is column-major: C' = B' A'
}
void gemm(const char* a, const char* b, int m, int n, int k, const double* A, int lda, const double* B, int ldb,
          double* C, int ldc) {
  const double one = 1, zero = 0;
  const Threads threads(m, n, k);
  dgemm_(b, a, &n, &m, &k, &one, B, &ldb, A, &lda, &zero, C, &ldc);
}

// Also a number that is none counts as the least, and as the best: as in torch it is not hidden by one that is.
template <class T>
T lesser(T a, T b) {
  return b < a || b != b ? b : a;
}
template <class T>
bool is_better(T b, T than) {
  return b > than || (b != b && than == than);
}

template <class T>
T dot(const T* a, const T* b, int n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

struct Layers {
  int n, widest = 0;
  const int64_t *sizes, *activations;
  explicit Layers(const int64_t* spec) : n(int(spec[0])), sizes(spec + 1), activations(spec + 2 + spec[0]) {
    for (int l = 0; l <= n; l++) widest = std::max(widest, int(sizes[l]));
  }
  int in(int l) const { return int(sizes[l]); }
  int out(int l) const { return int(sizes[l + 1]); }
};

// Outputs of all layers, one (rows, out) after the other, in `outs`; of `count` rows, whose inputs begin at `x`, from
// row `first` on.
template <class T>
void pass(const int64_t* spec, int rows, const T* p, const T* x, int ldx, T* outs, int first, int count) {
  const Layers net(spec);
  for (int l = 0; l < net.n; l++) {
    const int in = net.in(l), out = net.out(l);
    const T *weight = p, *bias = p + in * out;
    T* here = outs + int64_t(first) * out;
    if (count < 4 || out == 1) {  // too small for the product's own overhead
      for (int r = 0; r < count; r++)
        for (int c = 0; c < out; c++) here[r * out + c] = dot(x + int64_t(r) * ldx, weight + int64_t(c) * in, in);
    } else {
      gemm("N", "T", count, out, in, x, ldx, weight, in, here, out);
    }
    const auto activation = net.activations[l];
    for (int r = 0; r < count; r++) {
      T* y = here + int64_t(r) * out;
      if (activation == relu)
        for (int c = 0; c < out; c++) { const T v = y[c] + bias[c]; y[c] = v < 0 ? T(0) : v; }
      else
        for (int c = 0; c < out; c++) y[c] += bias[c];
      if (activation == tanh_)
        for (int c = 0; c < out; c++) y[c] = std::tanh(y[c]);
    }
    x = here, ldx = out, outs += int64_t(rows) * out, p = bias + out;
  }
}

// Memory of this thread for one purpose, good until it is asked for again.
enum Purpose { layers, joined, passed_back, of_outputs, lowest_values, shares, sums };
template <class T, Purpose>
T* memory(int64_t size) {
  static thread_local std::vector<T> numbers;
  if (int64_t(numbers.size()) < size) numbers.resize(size);
  return numbers.data();
}

// How many outputs all layers but the last, or all layers, have.
int64_t hidden(const int64_t* spec, int rows) {
  const Layers net(spec);
  int64_t size = 0;
  for (int l = 0; l < net.n - 1; l++) size += int64_t(rows) * net.out(l);
  return size;
}
int64_t outputs(const int64_t* spec, int rows) {
  const Layers net(spec);
  return hidden(spec, rows) + int64_t(rows) * net.out(net.n - 1);
}

int64_t parameters(const int64_t* spec) {
  const Layers net(spec);
  int64_t size = 0;
  for (int l = 0; l < net.n; l++) size += int64_t(net.in(l) + 1) * net.out(l);
  return size;
}

template <class T>
void forward(const int64_t* spec, int rows, const T* p, const T* x, int ldx, T* outs) {
  Shares(rows, parameters(spec)).each([&](int, int first, int count) {
    pass<T>(spec, rows, p, x + int64_t(first) * ldx, ldx, outs, first, count);
  });
}

// Numbers that are sums over rows: the first share's lie where the caller wants the sums, the others' beside.
template <class T>
struct Sums {
  const Shares& split;
  T *const total, *const others;
  const int64_t size;
  Sums(const Shares& split, T* total, int64_t size)
      : split(split), total(total), others(memory<T, sums>((split.n - 1) * size)), size(size) {}
  T* of(int share) const { return share ? others + (share - 1) * size : total; }
  void add_up() const {
    if (split.n == 1) return;
    at_once(split.n, [&](int i) {
      const int64_t begin = size * i / split.n, end = size * (i + 1) / split.n;
      for (int share = 1; share < split.n; share++)
        for (int64_t j = begin; j < end; j++) total[j] += of(share)[j];
    });
  }
};

// d <- d * activation'(.), written with the activation's output h; h's rows are chosen by `row`.
template <class T>
void through_activation(int64_t activation, T* d, const T* h, const int* row, int rows, int n) {
  for (int r = 0; r < rows; r++) {
    T* dr = d + int64_t(r) * n;
    const T* hr = h + int64_t(row[r]) * n;
    if (activation == relu)
      for (int c = 0; c < n; c++) dr[c] = hr[c] <= 0 ? T(0) : dr[c];  // behind a NaN there is a gradient
    else if (activation == tanh_)
      for (int c = 0; c < n; c++) dr[c] *= 1 - hr[c] * hr[c];
  }
}

// From d, the gradient of the outputs (rows, out): gradients of all parameters into `grads`, or, where that is null,
// of the input's columns from `column` on, added to dx. There only rows with a gradient are looked at. `outs` are of
// all `rows`, the other arrays begin at row `first`.
template <class T>
void pass_back(const int64_t* spec, int rows, const T* p, const T* x, int ldx, const T* outs, const T* d_out, T* grads,
               T* dx, int column, int first, int count) {
  const Layers net(spec);
  const int64_t n_params = parameters(spec);
  const int last = net.out(net.n - 1);
  static thread_local std::vector<int> row;
  row.clear();
  T *d = memory<T, passed_back>(int64_t(2) * count * net.widest), *spare = d + int64_t(count) * net.widest;
  for (int r = 0; r < count; r++) {
    const T* from = d_out + int64_t(r) * last;
    bool any = grads != nullptr;
    for (int c = 0; c < last && !any; c++) any = from[c] != 0;
    if (!any) continue;
    for (int c = 0; c < last; c++) d[row.size() * last + c] = from[c];
    row.push_back(r);
  }
  const int m = int(row.size());
  if (m == 0) {
    if (grads) std::fill(grads, grads + n_params, T(0));
    return;
  }
  const T* weight = p + n_params;
  const T* end = outs + outputs(spec, rows);
  T* grad = grads ? grads + n_params : nullptr;
  for (int l = net.n - 1; l >= 0; l--) {
    const int in = net.in(l), out = net.out(l);
    weight -= int64_t(in + 1) * out, end -= int64_t(rows) * out;
    through_activation(net.activations[l], d, end + int64_t(first) * out, row.data(), m, out);
    const T* input = l ? end - int64_t(rows - first) * in : x;
    const int ld = l ? in : ldx;
    if (grads) {
      grad -= int64_t(in + 1) * out;
      T* grad_bias = grad + int64_t(in) * out;
      for (int c = 0; c < out; c++) grad_bias[c] = 0;
      for (int r = 0; r < m; r++)
        for (int c = 0; c < out; c++) grad_bias[c] += d[int64_t(r) * out + c];
      if (out == 1) {
        for (int c = 0; c < in; c++) grad[c] = 0;
        for (int r = 0; r < m; r++)
          for (int c = 0; c < in; c++) grad[c] += d[r] * input[int64_t(r) * ld + c];
      } else {
        gemm("T", "N", out, in, m, d, out, input, ld, grad, in);
      }
    }
    if (l == 0) break;
    if (out == 1) {
      for (int r = 0; r < m; r++)
        for (int c = 0; c < in; c++) spare[int64_t(r) * in + c] = d[r] * weight[c];
    } else {
      gemm("N", "N", m, in, out, d, out, weight, in, spare, in);
    }
    std::swap(d, spare);
  }
  if (!dx) return;
  const int n = net.in(0) - column;
  gemm("N", "N", m, n, net.out(0), d, net.out(0), weight + column, net.in(0), spare, n);
  for (int r = 0; r < m; r++)
    for (int c = 0; c < n; c++) dx[int64_t(row[r]) * n + c] += spare[int64_t(r) * n + c];
}

template <class T>
void backward(const int64_t* spec, int rows, const T* p, const T* x, int ldx, const T* outs, const T* d_out, T* grads,
              T* dx, int column) {
  const Layers net(spec);
  const Shares split(rows, 2 * parameters(spec));
  const Sums<T> sums(split, grads, grads ? parameters(spec) : 0);
  split.each([&](int share, int first, int count) {
    pass_back<T>(spec, rows, p, x + int64_t(first) * ldx, ldx, outs, d_out + int64_t(first) * net.out(net.n - 1),
                 grads ? sums.of(share) : nullptr, dx ? dx + int64_t(first) * (net.in(0) - column) : nullptr, column,
                 first, count);
  });
  sums.add_up();
}

// Q-learning: errors e = y - Q(s, a) with y = r + f Q'(s', argmax J(s')), the mean of their (weighted) squares or Huber
// losses, and its gradient by the parameters p of Q. The three networks have one `spec`; `p_judge` may be null: then J
// is Q'. An action that does not exist makes the mean minus infinity, and nothing else of the results is written.
template <class T>
double q_gradient(const int64_t* spec, int rows, const T* p, const T* p_target, const T* p_judge, const T* x, int ldx,
                  const T* x_next, int ldx_next, const int64_t* act, const T* rew, const T* factor, const T* weight,
                  int huber, T* grads, T* error) {
  const Layers net(spec);
  const int n = net.out(net.n - 1);
  for (int r = 0; r < rows; r++)
    if (act[r] < 0 || act[r] >= n) return -HUGE_VAL;

  const Shares split(rows, (p_judge ? 5 : 4) * parameters(spec));
  const Sums<T> sums(split, grads, parameters(spec));
  double loss[Shares::most] = {};
  split.each([&](int share, int first, int count) {
    T *outs = memory<T, layers>(outputs(spec, count)), *d = memory<T, of_outputs>(int64_t(count) * n);
    const T* q = outs + hidden(spec, count);
    int* best = memory<int, of_outputs>(count);
    const T *here = x + int64_t(first) * ldx, *next = x_next + int64_t(first) * ldx_next;

    pass<T>(spec, count, p_judge ? p_judge : p_target, next, ldx_next, outs, 0, count);
    for (int r = 0; r < count; r++) {
      best[r] = r * n;
      for (int c = r * n; c < (r + 1) * n; c++)
        if (is_better(q[c], q[best[r]])) best[r] = c;
    }
    if (p_judge) pass<T>(spec, count, p_target, next, ldx_next, outs, 0, count);
    for (int r = 0; r < count; r++) error[first + r] = rew[first + r] + factor[first + r] * q[best[r]];

    pass<T>(spec, count, p, here, ldx, outs, 0, count);
    std::fill(d, d + int64_t(count) * n, T(0));
    for (int r = 0; r < count; r++) {
      const int64_t chosen = int64_t(r) * n + act[first + r];
      const T e = error[first + r] -= q[chosen];
      const T slope = huber ? std::min(std::max(e, T(-1)), T(1)) : 2 * e;
      const T w = weight ? weight[first + r] : T(1);
      loss[share] += w * (huber ? slope * (e - slope / 2) : e * e);
      d[chosen] = -w * slope / rows;
    }
    pass_back<T>(spec, count, p, here, ldx, outs, d, sums.of(share), nullptr, 0, 0, count);
  });
  sums.add_up();
  return std::accumulate(loss, loss + split.n, 0.0) / rows;
}

// Critics: k networks that see [s, a], a state of `n_obs` numbers and an action, and say one number. Their specs,
// parameters and gradients are lists of k.
template <class T>
struct Inputs {
  const int n_in;
  const T* obs;
  const int ld_obs, n_obs;
  const T* act;
  const int ld_act;
  const T* join(int first, int count) const {
    T *x = memory<T, joined>(int64_t(count) * n_in), *to = x;
    for (int r = first; r < first + count; r++) {
      const T *s = obs + int64_t(r) * ld_obs, *a = act + int64_t(r) * ld_act;
      to = std::copy(a, a + n_in - n_obs, std::copy(s, s + n_obs, to));
    }
    return x;
  }
};

// q[r] = min_i Q_i(s, a)
template <class T>
void least(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
           const T* act, int ld_act, T* q) {
  const Inputs<T> inputs{Layers(spec[0]).in(0), obs, ld_obs, n_obs, act, ld_act};
  Shares(rows, k * parameters(spec[0])).each([&](int, int first, int count) {
    const T* x = inputs.join(first, count);
    for (int i = 0; i < k; i++) {
      T* outs = memory<T, layers>(outputs(spec[i], count));
      pass<T>(spec[i], count, p[i], x, inputs.n_in, outs, 0, count);
      const T* qi = outs + hidden(spec[i], count);
      for (int r = 0; r < count; r++) q[first + r] = i ? lesser(q[first + r], qi[r]) : qi[r];
    }
  });
}

// L_i = 1/B sum w (Q_i(s, a) - y)^2 and its gradient by the parameters of Q_i; error[r] = 1/k sum_i Q_i(s, a) - y
template <class T>
void regress(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
             const T* act, int ld_act, const T* y, const T* weight, T* const* grads, double* losses, T* error) {
  const Inputs<T> inputs{Layers(spec[0]).in(0), obs, ld_obs, n_obs, act, ld_act};
  std::fill(error, error + rows, T(0));
  for (int i = 0; i < k; i++) {
    const Shares split(rows, 3 * parameters(spec[i]));
    const Sums<T> sums(split, grads[i], parameters(spec[i]));
    double loss[Shares::most] = {};
    split.each([&](int share, int first, int count) {
      const T* x = inputs.join(first, count);
      T *d = memory<T, of_outputs>(count), *outs = memory<T, layers>(outputs(spec[i], count));
      pass<T>(spec[i], count, p[i], x, inputs.n_in, outs, 0, count);
      const T* q = outs + hidden(spec[i], count);
      for (int r = 0; r < count; r++) {
        const T e = q[r] - y[first + r], we = weight ? weight[first + r] * e : e;
        loss[share] += we * e, error[first + r] += e / k, d[r] = 2 * we / rows;
      }
      pass_back<T>(spec[i], count, p[i], x, inputs.n_in, outs, d, sums.of(share), nullptr, 0, 0, count);
    });
    sums.add_up();
    losses[i] = std::accumulate(loss, loss + split.n, 0.0) / rows;
  }
}

// L = -1/B sum min_i Q_i(s, a) and its gradient by a, (rows, A). Critics that are equal share it, as amin does.
template <class T>
double ascend(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
              const T* act, int ld_act, T* d_act) {
  const Inputs<T> inputs{Layers(spec[0]).in(0), obs, ld_obs, n_obs, act, ld_act};
  const int n_act = inputs.n_in - n_obs;
  const Shares split(rows, 2 * k * parameters(spec[0]));
  double sum[Shares::most] = {};
  std::fill(d_act, d_act + int64_t(rows) * n_act, T(0));
  split.each([&](int part, int first, int count) {
    const T* x = inputs.join(first, count);
    int64_t size = 0;
    for (int i = 0; i < k; i++) size += outputs(spec[i], count);
    T *d = memory<T, of_outputs>(count), *lowest = memory<T, lowest_values>(count), *share = memory<T, shares>(count);
    T* outs = memory<T, layers>(size);
    for (int i = 0; i < k; outs += outputs(spec[i++], count)) {
      pass<T>(spec[i], count, p[i], x, inputs.n_in, outs, 0, count);
      const T* q = outs + hidden(spec[i], count);
      for (int r = 0; r < count; r++) {
        share[r] = i && q[r] >= lowest[r] ? share[r] + (q[r] == lowest[r]) : 1;
        lowest[r] = i ? lesser(lowest[r], q[r]) : q[r];
      }
    }
    sum[part] = std::accumulate(lowest, lowest + count, 0.0);
    outs = memory<T, layers>(size);
    for (int i = 0; i < k; outs += outputs(spec[i++], count)) {
      const T* q = outs + hidden(spec[i], count);
      for (int r = 0; r < count; r++)
        d[r] = q[r] == lowest[r] ? -1 / (share[r] * rows) : lowest[r] != lowest[r] ? lowest[r] : T(0);
      pass_back<T>(spec[i], count, p[i], x, inputs.n_in, outs, d, nullptr, d_act + int64_t(first) * n_act, n_obs, 0,
                   count);
    }
  });
  return -std::accumulate(sum, sum + split.n, 0.0) / rows;
}

// tanh u and log(d tanh u / du) = log(1 - tanh^2 u), both accurate for every u: with t = e^(-2|u|) they are
// +-(1 - t) / (1 + t) and 2 (log 2 - |u| - log(1 + t)).
template <class T>
T squashed(T u, T* log_slope) {
  const T minus = std::expm1(-2 * std::fabs(u));  // t - 1
  *log_slope = 2 * (T(M_LN2) - std::fabs(u) - std::log(2 + minus));
  return std::copysign(minus / (2 + minus), u);
}

constexpr int functions = 2048;  // exp and log take as long as about so many multiplications in products

// a = tanh u, u = mu + sigma eps, and log pi(a) = sum log N(u; mu, sigma) - log(1 - tanh^2 u), of rows [mu, log sigma].
template <class T>
void squash(int rows, int n, const T* out, const T* noise, double low, double high, T* act, T* log_prob) {
  const T constant = T(0.5 * std::log(2 * M_PI));
  Shares(rows, functions * n).each([&](int, int first, int count) {
    for (int r = first; r < first + count; r++) {
      const T *o = out + int64_t(r) * 2 * n, *e = noise + int64_t(r) * n;
      T sum = 0;
      for (int c = 0; c < n; c++) {
        const T log_sigma = std::min(std::max(o[n + c], T(low)), T(high));
        T log_slope;
        act[int64_t(r) * n + c] = squashed(o[c] + std::exp(log_sigma) * e[c], &log_slope);
        sum -= log_sigma + constant + e[c] * e[c] / 2 + log_slope;
      }
      log_prob[r] = sum;
    }
  });
}

// The gradient of alpha/B sum log pi(a) + L by [mu, log sigma], (rows, 2n), from dL/da: with u = mu + sigma eps,
// dL/du = 2 alpha/B tanh u + dL/da (1 - tanh^2 u), and dL/dlog sigma = dL/du sigma eps - alpha/B inside its limits.
template <class T>
void squash_gradient(int rows, int n, const T* out, const T* noise, double low, double high, const T* act,
                     const T* d_act, double alpha, T* d_out) {
  const T share = T(alpha / rows);
  for (int r = 0; r < rows; r++, out += 2 * n, noise += n, act += n, d_act += n, d_out += 2 * n)
    for (int c = 0; c < n; c++) {
      const T log_sigma = out[n + c];
      const bool inside = log_sigma >= T(low) && log_sigma <= T(high);
      const T d = d_out[c] = d_act[c] * (1 - act[c] * act[c]) + 2 * share * act[c];
      d_out[n + c] = inside ? d * std::exp(log_sigma) * noise[c] - share : T(0);
    }
}

// One step of Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1), in the order of torch's operations; `l2` adds to the
// gradient, `decay` shrinks the parameters (AdamW). A target network, if any, follows: target += tau (p - target).
template <class T>
void adam(int64_t n, T* p, const T* g, T* m, T* v, T* target, double tau, double step, double lr, double beta1,
          double beta2, double eps, double l2, double decay) {
  const T size = T(lr / (1 - std::pow(beta1, step))), root = T(1 / std::sqrt(1 - std::pow(beta2, step)));
  const T b1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2), e = T(eps), w = T(l2), keep = T(1 - lr * decay), t = T(tau);
  Shares(n, 32).each([&](int, int64_t first, int64_t count) {  // each takes as long as so many multiplications
    const int64_t end = first + count;
#pragma omp simd
    for (int64_t i = first; i < end; i++) {
      const T gi = g[i] + w * p[i];
      m[i] += b1 * (gi - m[i]);
      v[i] = b2 * v[i] + c2 * gi * gi;
      p[i] = keep * p[i] - size * m[i] / (std::sqrt(v[i]) * root + e);
    }
    if (target)
#pragma omp simd
      for (int64_t i = first; i < end; i++) target[i] += t * (p[i] - target[i]);
  });
}

template <auto f>
struct Guarded;
template <class Result, class... Arguments, Result (*f)(Arguments...)>
struct Guarded<f> {
  static Result call(Arguments... arguments) {
    const FlushToZero guard;
    return f(arguments...);
  }
};

}  // namespace

// Where a function for each dtype lies, under a name that a loader finds.
#define EXPORT(NAME)                                                       \
  extern "C" void* const NAME##_f32 = (void*)&Guarded<&NAME<float>>::call; \
  extern "C" void* const NAME##_f64 = (void*)&Guarded<&NAME<double>>::call;
EXPORT(forward)
EXPORT(backward)
EXPORT(q_gradient)
EXPORT(least)
EXPORT(regress)
EXPORT(ascend)
EXPORT(squash)
EXPORT(squash_gradient)
EXPORT(adam)
