// What a small network spends its time on, each in one call: a multi-layer perceptron forward and backward, the losses
// of Q-learning and of critics with their gradients, the squashed Gaussian, and a step of Adam over a flat vector of
// parameters. Matrix products are those of the BLAS inside torch.
//
// Arrays are row-major. A network's parameters lie in one vector: of each layer the weights (out, in), then the
// biases (out). `spec` describes it: number of layers, sizes (layers + 1 numbers), activation behind each layer.
#include <algorithm>
#include <cmath>
#include <cstdint>
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

// One thread for a small product, which several would not finish sooner.
struct Threads {
  const bool is_small;
  int before = 0;
  Threads(int64_t m, int64_t n, int64_t k) : is_small(MKL_Set_Num_Threads_Local && m * n * k < (1 << 22)) {
    if (is_small) before = MKL_Set_Num_Threads_Local(1);
  }
  ~Threads() {
    if (is_small) MKL_Set_Num_Threads_Local(before);
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

// Outputs of all layers, one (rows, out) after the other, in `outs`.
template <class T>
void forward(const int64_t* spec, int rows, const T* p, const T* x, int ldx, T* outs) {
  const Layers net(spec);
  for (int l = 0; l < net.n; l++) {
    const int in = net.in(l), out = net.out(l);
    const T *weight = p, *bias = p + in * out;
    if (rows < 4 || out == 1) {  // too small for the product's own overhead
      for (int r = 0; r < rows; r++)
        for (int c = 0; c < out; c++) outs[r * out + c] = dot(x + int64_t(r) * ldx, weight + int64_t(c) * in, in);
    } else {
      gemm("N", "T", rows, out, in, x, ldx, weight, in, outs, out);
    }
    const auto activation = net.activations[l];
    for (int r = 0; r < rows; r++) {
      T* y = outs + int64_t(r) * out;
      if (activation == relu)
        for (int c = 0; c < out; c++) { const T v = y[c] + bias[c]; y[c] = v < 0 ? T(0) : v; }
      else
        for (int c = 0; c < out; c++) y[c] += bias[c];
      if (activation == tanh_)
        for (int c = 0; c < out; c++) y[c] = std::tanh(y[c]);
    }
    x = outs, ldx = out, outs += int64_t(rows) * out, p = bias + out;
  }
}

// Memory of this thread for one purpose, good until it is asked for again.
enum Purpose { layers, joined, passed_back, of_outputs, lowest_values, shares };
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
// of the input's columns from `first` on, added to dx. There only rows with a gradient are looked at.
template <class T>
void backward(const int64_t* spec, int rows, const T* p, const T* x, int ldx, const T* outs, const T* d_out, T* grads,
              T* dx, int first) {
  const Layers net(spec);
  int64_t n_params = 0;
  for (int l = 0; l < net.n; l++) n_params += int64_t(net.in(l) + 1) * net.out(l);
  const int last = net.out(net.n - 1);
  static thread_local std::vector<int> row;
  row.clear();
  T *d = memory<T, passed_back>(int64_t(2) * rows * net.widest), *spare = d + int64_t(rows) * net.widest;
  for (int r = 0; r < rows; r++) {
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
  const T* h = outs + outputs(spec, rows);
  T* grad = grads ? grads + n_params : nullptr;
  for (int l = net.n - 1; l >= 0; l--) {
    const int in = net.in(l), out = net.out(l);
    weight -= int64_t(in + 1) * out, h -= int64_t(rows) * out;
    through_activation(net.activations[l], d, h, row.data(), m, out);
    const T* input = l ? h - int64_t(rows) * in : x;
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
  const int n = net.in(0) - first;
  gemm("N", "N", m, n, net.out(0), d, net.out(0), weight + first, net.in(0), spare, n);
  for (int r = 0; r < m; r++)
    for (int c = 0; c < n; c++) dx[int64_t(row[r]) * n + c] += spare[int64_t(r) * n + c];
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
  T *outs = memory<T, layers>(outputs(spec, rows)), *d = memory<T, of_outputs>(int64_t(rows) * n);
  const T* q = outs + hidden(spec, rows);
  int* best = memory<int, of_outputs>(rows);
  for (int r = 0; r < rows; r++)
    if (act[r] < 0 || act[r] >= n) return -HUGE_VAL;

  forward<T>(spec, rows, p_judge ? p_judge : p_target, x_next, ldx_next, outs);
  for (int r = 0; r < rows; r++) {
    best[r] = r * n;
    for (int c = r * n; c < (r + 1) * n; c++)
      if (is_better(q[c], q[best[r]])) best[r] = c;
  }
  if (p_judge) forward<T>(spec, rows, p_target, x_next, ldx_next, outs);
  for (int r = 0; r < rows; r++) error[r] = rew[r] + factor[r] * q[best[r]];

  forward<T>(spec, rows, p, x, ldx, outs);
  std::fill(d, d + int64_t(rows) * n, T(0));
  double loss = 0;
  for (int r = 0; r < rows; r++) {
    const int64_t chosen = int64_t(r) * n + act[r];
    const T e = error[r] -= q[chosen];
    const T slope = huber ? std::min(std::max(e, T(-1)), T(1)) : 2 * e;
    const T w = weight ? weight[r] : T(1);
    loss += w * (huber ? slope * (e - slope / 2) : e * e);
    d[chosen] = -w * slope / rows;
  }
  backward<T>(spec, rows, p, x, ldx, outs, d, grads, nullptr, 0);
  return loss / rows;
}

// Critics: k networks that see [s, a], a state of `n_obs` numbers and an action, and say one number. Their specs,
// parameters and gradients are lists of k.
template <class T>
const T* join(int n_in, int rows, const T* obs, int ld_obs, int n_obs, const T* act, int ld_act) {
  T *x = memory<T, joined>(int64_t(rows) * n_in), *to = x;
  for (int r = 0; r < rows; r++, obs += ld_obs, act += ld_act)
    to = std::copy(act, act + n_in - n_obs, std::copy(obs, obs + n_obs, to));
  return x;
}

// q[r] = min_i Q_i(s, a)
template <class T>
void least(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
           const T* act, int ld_act, T* q) {
  const int n_in = Layers(spec[0]).in(0);
  const T* x = join(n_in, rows, obs, ld_obs, n_obs, act, ld_act);
  for (int i = 0; i < k; i++) {
    T* outs = memory<T, layers>(outputs(spec[i], rows));
    forward<T>(spec[i], rows, p[i], x, n_in, outs);
    const T* qi = outs + hidden(spec[i], rows);
    for (int r = 0; r < rows; r++) q[r] = i ? lesser(q[r], qi[r]) : qi[r];
  }
}

// L_i = 1/B sum w (Q_i(s, a) - y)^2 and its gradient by the parameters of Q_i; error[r] = 1/k sum_i Q_i(s, a) - y
template <class T>
void regress(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
             const T* act, int ld_act, const T* y, const T* weight, T* const* grads, double* losses, T* error) {
  const int n_in = Layers(spec[0]).in(0);
  const T* x = join(n_in, rows, obs, ld_obs, n_obs, act, ld_act);
  T* d = memory<T, of_outputs>(rows);
  std::fill(error, error + rows, T(0));
  for (int i = 0; i < k; i++) {
    T* outs = memory<T, layers>(outputs(spec[i], rows));
    forward<T>(spec[i], rows, p[i], x, n_in, outs);
    const T* q = outs + hidden(spec[i], rows);
    double loss = 0;
    for (int r = 0; r < rows; r++) {
      const T e = q[r] - y[r], we = weight ? weight[r] * e : e;
      loss += we * e, error[r] += e / k, d[r] = 2 * we / rows;
    }
    losses[i] = loss / rows;
    backward<T>(spec[i], rows, p[i], x, n_in, outs, d, grads[i], nullptr, 0);
  }
}

// L = -1/B sum min_i Q_i(s, a) and its gradient by a, (rows, A). Critics that are equal share it, as amin does.
template <class T>
double ascend(const int64_t* const* spec, int k, int rows, const T* const* p, const T* obs, int ld_obs, int n_obs,
              const T* act, int ld_act, T* d_act) {
  const int n_in = Layers(spec[0]).in(0);
  const T* x = join(n_in, rows, obs, ld_obs, n_obs, act, ld_act);
  int64_t size = 0;
  for (int i = 0; i < k; i++) size += outputs(spec[i], rows);
  T *d = memory<T, of_outputs>(rows), *lowest = memory<T, lowest_values>(rows), *share = memory<T, shares>(rows);
  T* outs = memory<T, layers>(size);
  for (int i = 0; i < k; outs += outputs(spec[i++], rows)) {
    forward<T>(spec[i], rows, p[i], x, n_in, outs);
    const T* q = outs + hidden(spec[i], rows);
    for (int r = 0; r < rows; r++) {
      share[r] = i && q[r] >= lowest[r] ? share[r] + (q[r] == lowest[r]) : 1;
      lowest[r] = i ? lesser(lowest[r], q[r]) : q[r];
    }
  }
  double sum = 0;
  for (int r = 0; r < rows; r++) sum += lowest[r];
  std::fill(d_act, d_act + int64_t(rows) * (n_in - n_obs), T(0));
  outs = memory<T, layers>(size);
  for (int i = 0; i < k; outs += outputs(spec[i++], rows)) {
    const T* q = outs + hidden(spec[i], rows);
    for (int r = 0; r < rows; r++)
      d[r] = q[r] == lowest[r] ? -1 / (share[r] * rows) : lowest[r] != lowest[r] ? lowest[r] : T(0);
    backward<T>(spec[i], rows, p[i], x, n_in, outs, d, nullptr, d_act, n_obs);
  }
  return -sum / rows;
}

// tanh u and log(d tanh u / du) = log(1 - tanh^2 u), both accurate for every u: with t = e^(-2|u|) they are
// +-(1 - t) / (1 + t) and 2 (log 2 - |u| - log(1 + t)).
template <class T>
T squashed(T u, T* log_slope) {
  const T minus = std::expm1(-2 * std::fabs(u));  // t - 1
  *log_slope = 2 * (T(M_LN2) - std::fabs(u) - std::log(2 + minus));
  return std::copysign(minus / (2 + minus), u);
}

// a = tanh u, u = mu + sigma eps, and log pi(a) = sum log N(u; mu, sigma) - log(1 - tanh^2 u), of rows [mu, log sigma].
template <class T>
void squash(int rows, int n, const T* out, const T* noise, double low, double high, T* act, T* log_prob) {
  const T constant = T(0.5 * std::log(2 * M_PI));
  for (int r = 0; r < rows; r++, out += 2 * n, noise += n, act += n) {
    T sum = 0;
    for (int c = 0; c < n; c++) {
      const T log_sigma = std::min(std::max(out[n + c], T(low)), T(high));
      T log_slope;
      act[c] = squashed(out[c] + std::exp(log_sigma) * noise[c], &log_slope);
      sum -= log_sigma + constant + noise[c] * noise[c] / 2 + log_slope;
    }
    log_prob[r] = sum;
  }
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
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const T gi = g[i] + w * p[i];
    m[i] += b1 * (gi - m[i]);
    v[i] = b2 * v[i] + c2 * gi * gi;
    p[i] = keep * p[i] - size * m[i] / (std::sqrt(v[i]) * root + e);
  }
  if (target)
#pragma omp simd
    for (int64_t i = 0; i < n; i++) target[i] += t * (p[i] - target[i]);
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
