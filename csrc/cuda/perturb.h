// A call of perturb as its kernels take it.
#pragma once

#include "draws.h"
#include "features.h"
#include "kernels.h"
#include "memory.h"

namespace fwdgrad::cuda {

// Numbers are of the type that the kernels compute in already: a kernel would convert a double once
// a thread and sample, in double precision.
template <typename T>
struct Call {
  using C = typename Compute<T>::type;
  T* out;
  const T* x;
  int64_t numel, count, opposite;  // opposite: as elements
  uint64_t first;
  Source source;
  Table table;
  Axes axes;
  C scale, low, high;
  C slope, position;  // see Blend
  bool clips, by_plane;
  const C* scale_map;
  const Placed* placed;
  const Placed* held;
  const void* baseline;
  Spec spec;
  int64_t interleaved;

  static Call of(const Perturb& p) {
    const bool blends = p.baseline.at;
    return {static_cast<T*>(p.out),
            static_cast<const T*>(p.x),
            p.spec.numel(),
            p.count,
            p.opposite * p.spec.numel(),
            p.first,
            Source::of(p.spec),
            {p.draws, p.stride, is_sign(p.spec.distribution)},
            Axes::of(p.spec),
            static_cast<C>(p.scale),
            static_cast<C>(p.low),
            static_cast<C>(p.high),
            blends ? static_cast<C>(p.scale) : C(1),
            blends ? static_cast<C>(p.baseline.position) : C(0),
            p.low > -INFINITY || p.high < INFINITY,
            p.baseline.by_plane,
            static_cast<const C*>(p.scale_map),
            p.placed,
            p.held,
            p.baseline.at,
            p.spec,
            p.interleaved};
  }
  // Whether there is nothing but x, noise and a number that scales it.
  bool is_plain() const {
    return !placed && !held && !clips && !scale_map && !baseline && interleaved == 1;
  }
};

// An element between its samples: from + way (position + slope xi). With a baseline b it goes from
// b by x - b; else from x by its scale, with position 0 and slope 1.
template <typename T>
struct Blend {
  using C = typename Compute<T>::type;
  C from, way;

  FWDGRAD_HD static Blend of(const Call<T>& call, C value, int64_t at, int64_t plane) {
    if (!call.baseline)
      return {value, call.scale_map ? call.scale * call.scale_map[at] : call.scale};
    const C b = call.by_plane ? static_cast<const C*>(call.baseline)[plane]
                              : load(static_cast<const T*>(call.baseline)[at]);
    return {b, value - b};
  }
  FWDGRAD_HD C plain(const Call<T>& call, C noise, bool negative) const {
    return from + way * ((negative ? -call.slope : call.slope) * noise + call.position);
  }
  FWDGRAD_HD C at(const Call<T>& call, C noise, bool covered, bool negative) const {
    // Where the block does not cover, an infinite scale must not make NaN of 0.
    const Blend seen{from, covered || call.baseline ? way : C(0)};
    const C result = seen.plain(call, covered ? noise : C(0), negative);
    return call.clips ? clamp(result, call.low, call.high) : result;
  }
};

template <typename T>
void perturb_features(const Call<T>& call, Where where);

}  // namespace fwdgrad::cuda
