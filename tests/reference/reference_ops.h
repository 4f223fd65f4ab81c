// The operations of a transformer in float64, written plainly from their formulas. Includes nothing of the project, so
// that a test compares two independent implementations. Tensors are row-major vectors, slowest dimension first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

namespace ref {

using Vec = std::vector<double>;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

template <class T>
Vec to_f64(const std::vector<T>& x) {
  return Vec(x.begin(), x.end());
}

/// The double nearest to `x` among IEEE half values (round to nearest even, overflow to infinity).
inline double round_to_half(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);                                // |x| in [2^(exponent-1), 2^exponent)
  const double ulp = std::ldexp(1.0, std::max(exponent - 11, -24));
  const double y = std::nearbyint(x / ulp) * ulp;
  return std::fabs(y) >= 65520.0 ? std::copysign(std::numeric_limits<double>::infinity(), x) : y;
}

/// y[t,m] = sum_k w[m,k] x[t,k]            w: [m_dim, k_dim], x: [n_tokens, k_dim]
inline Vec matmul(const Vec& w, const Vec& x, std::size_t m_dim, std::size_t k_dim) {
  require(k_dim > 0 && w.size() == m_dim * k_dim && x.size() % k_dim == 0, "ref::matmul: shapes");
  const std::size_t n_tokens = x.size() / k_dim;
  Vec y(n_tokens * m_dim, 0.0);
  for (std::size_t t = 0; t < n_tokens; ++t)
    for (std::size_t m = 0; m < m_dim; ++m)
      for (std::size_t k = 0; k < k_dim; ++k) y[t * m_dim + m] += w[m * k_dim + k] * x[t * k_dim + k];
  return y;
}

/// y[t,m] = x[t,m] + b[m]
inline Vec add_bias(Vec x, const Vec& b) {
  require(!b.empty() && x.size() % b.size() == 0, "ref::add_bias: shapes");
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += b[i % b.size()];
  return x;
}

inline Vec add(Vec a, const Vec& b) {
  require(a.size() == b.size(), "ref::add: shapes");
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// y[r,i] = w[i] x[r,i] / sqrt(mean_i x[r,i]^2 + eps)           x: [n_rows, dim]; an empty w counts as ones
inline Vec rmsnorm(const Vec& x, const Vec& w, std::size_t dim, double eps) {
  require(dim > 0 && x.size() % dim == 0 && (w.empty() || w.size() == dim), "ref::rmsnorm: shapes");
  Vec y(x.size());
  for (std::size_t row = 0; row < x.size(); row += dim) {
    double sum = 0;
    for (std::size_t i = 0; i < dim; ++i) sum += x[row + i] * x[row + i];
    const double scale = 1.0 / std::sqrt(sum / double(dim) + eps);
    for (std::size_t i = 0; i < dim; ++i) y[row + i] = x[row + i] * scale * (w.empty() ? 1.0 : w[i]);
  }
  return y;
}

/// Base frequencies base^(-2j / n_rot), j < n_rot / 2.
inline Vec rope_inv_freq(std::size_t n_rot, double base) {
  Vec f(n_rot / 2);
  for (std::size_t j = 0; j < f.size(); ++j) f[j] = std::pow(base, -2.0 * double(j) / double(n_rot));
  return f;
}

/// Frequencies after YaRN with beta_fast 32 and beta_slow 1, correction range rounded outwards; `ctx` original context.
inline Vec yarn_inv_freq(std::size_t n_rot, double base, double factor, double ctx) {
  const auto corr = [&](double beta) {
    return double(n_rot) * std::log(ctx / (2 * M_PI * beta)) / (2 * std::log(base));
  };
  const double lo = std::max(0.0, std::floor(corr(32))), hi = std::min(double(n_rot) - 1, std::ceil(corr(1)));
  Vec f = rope_inv_freq(n_rot, base);
  for (std::size_t j = 0; j < f.size(); ++j) {
    const double ramp = 1 - std::clamp((double(j) - lo) / std::max(0.001, hi - lo), 0.0, 1.0);
    f[j] = f[j] / factor * (1 - ramp) + f[j] * ramp;
  }
  return f;
}

/// Rotates the first 2 * inv_freq.size() dims of every head by angle position * inv_freq[j]; cos and sin times `magnitude`.
/// x: [n_tokens, n_heads, head_dim]. interleaved: pairs (2j, 2j+1); else (j, j + n_rot/2).
inline Vec rope(Vec x, const std::vector<int>& positions, std::size_t n_heads, std::size_t head_dim, const Vec& inv_freq,
                bool interleaved, double magnitude = 1.0) {
  const std::size_t half = inv_freq.size();
  require(2 * half <= head_dim && x.size() == positions.size() * n_heads * head_dim, "ref::rope: shapes");
  for (std::size_t t = 0; t < positions.size(); ++t)
    for (std::size_t h = 0; h < n_heads; ++h)
      for (std::size_t j = 0; j < half; ++j) {
        double* head = x.data() + (t * n_heads + h) * head_dim;
        const std::size_t i0 = interleaved ? 2 * j : j, i1 = interleaved ? 2 * j + 1 : j + half;
        const double a = positions[t] * inv_freq[j], c = magnitude * std::cos(a), s = magnitude * std::sin(a);
        const double x0 = head[i0], x1 = head[i1];
        head[i0] = x0 * c - x1 * s;
        head[i1] = x0 * s + x1 * c;
      }
  return x;
}

inline Vec softmax(const Vec& x) {
  Vec y(x.size());
  if (x.empty()) return y;
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += y[i] = std::exp(x[i] - top);
  for (double& v : y) v /= sum;
  return y;
}

/// Causal attention of queries at positions first_position + t over keys and values at positions 0, 1, ...
/// q: [n_tokens, n_head, head_dim]; k, v: [n_keys, n_head_kv, head_dim]; result like q. A key at p_k is visible iff
/// p_k <= p_q and (window == 0 or p_q - p_k < window). Query head h uses KV head h / (n_head / n_head_kv).
inline Vec attention(const Vec& q, const Vec& k, const Vec& v, std::size_t n_head, std::size_t n_head_kv,
                     std::size_t head_dim, double scale, std::size_t first_position, std::size_t window = 0) {
  const std::size_t n_tokens = q.size() / (n_head * head_dim), n_keys = k.size() / (n_head_kv * head_dim);
  require(n_head % n_head_kv == 0 && k.size() == v.size() && first_position + n_tokens <= n_keys, "ref::attention: shapes");
  Vec y(q.size(), 0.0);
  for (std::size_t t = 0; t < n_tokens; ++t)
    for (std::size_t h = 0; h < n_head; ++h) {
      const std::size_t p_q = first_position + t, kv = h / (n_head / n_head_kv);
      const std::size_t begin = window != 0 && p_q + 1 > window ? p_q + 1 - window : 0;
      Vec logits;
      for (std::size_t p = begin; p <= p_q; ++p) {
        double dot = 0;
        for (std::size_t d = 0; d < head_dim; ++d)
          dot += q[(t * n_head + h) * head_dim + d] * k[(p * n_head_kv + kv) * head_dim + d];
        logits.push_back(scale * dot);
      }
      const Vec weights = softmax(logits);
      for (std::size_t p = begin; p <= p_q; ++p)
        for (std::size_t d = 0; d < head_dim; ++d)
          y[(t * n_head + h) * head_dim + d] += weights[p - begin] * v[(p * n_head_kv + kv) * head_dim + d];
    }
  return y;
}

inline double silu(double x) { return x / (1.0 + std::exp(-x)); }
/// The tanh form, not erf.
inline double gelu_tanh(double x) { return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * x * (1.0 + 0.044715 * x * x))); }

enum class Act { kSilu, kGeluTanh };

/// y = act(gate) * up
inline Vec glu(const Vec& gate, const Vec& up, Act act) {
  require(gate.size() == up.size(), "ref::glu: shapes");
  Vec y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = (act == Act::kSilu ? silu(gate[i]) : gelu_tanh(gate[i])) * up[i];
  return y;
}

/// Indices of the k largest values in descending order; equal values: lower index first.
inline std::vector<int> top_k(const Vec& x, std::size_t k) {
  require(k <= x.size(), "ref::top_k: k");
  std::vector<int> idx(x.size());
  std::iota(idx.begin(), idx.end(), 0);
  std::stable_sort(idx.begin(), idx.end(), [&](int a, int b) { return x[std::size_t(a)] > x[std::size_t(b)]; });
  idx.resize(k);
  return idx;
}

struct Route {
  std::vector<int> ids;   ///< [k]
  Vec weights;            ///< [k], sum 1
};

/// Softmax over all experts, the k largest, renormalised (clamped below at 2^-14).
inline Route route(const Vec& logits, std::size_t k) {
  const Vec p = softmax(logits);
  Route r{.ids = top_k(logits, k), .weights = {}};
  double sum = 0;
  for (int id : r.ids) sum += p[std::size_t(id)];
  for (int id : r.ids) r.weights.push_back(p[std::size_t(id)] / std::max(sum, std::ldexp(1.0, -14)));
  return r;
}

/// One token through the experts: sum_i weight_i * Wdown[id_i](act(Wgate[id_i] x) * Wup[id_i] x).
/// w_gate, w_up: [n_experts, f_dim, k_dim]; w_down: [n_experts, k_dim, f_dim]; x: [k_dim]
inline Vec moe_ffn(const Vec& x, const Route& r, const Vec& w_gate, const Vec& w_up, const Vec& w_down, std::size_t f_dim,
                   Act act) {
  const std::size_t k_dim = x.size(), one = f_dim * k_dim;
  const auto expert = [&](const Vec& w, int id) {
    return Vec(w.begin() + std::ptrdiff_t(std::size_t(id) * one), w.begin() + std::ptrdiff_t((std::size_t(id) + 1) * one));
  };
  Vec y(k_dim, 0.0);
  for (std::size_t i = 0; i < r.ids.size(); ++i) {
    const Vec h = glu(matmul(expert(w_gate, r.ids[i]), x, f_dim, k_dim), matmul(expert(w_up, r.ids[i]), x, f_dim, k_dim), act);
    const Vec out = matmul(expert(w_down, r.ids[i]), h, k_dim, f_dim);
    for (std::size_t d = 0; d < k_dim; ++d) y[d] += r.weights[i] * out[d];
  }
  return y;
}

/// y = cap * tanh(x / cap)
inline Vec softcap(Vec x, double cap) {
  for (double& v : x) v = cap * std::tanh(v / cap);
  return x;
}

/// The first index of the largest value.
inline std::size_t argmax(const Vec& x) { return std::size_t(std::max_element(x.begin(), x.end()) - x.begin()); }

inline double max_abs_diff(const Vec& a, const Vec& b) {
  require(a.size() == b.size(), "ref::max_abs_diff: sizes");
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(a[i] - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return worst;
}

}  // namespace ref
