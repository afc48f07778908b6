/* Local relations, backward: gradients of queries, and those of keys, added where they were read.
 *
 * A thread has rows of its own and goes over all positions whose taps reach them, so that nothing
 * is added from two threads, and every number is computed the same way whatever their count.
 */
#include "map.h"

/* The gradient of a position's part of the output in float32. */
FV_INLINE const float *grad_at(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                               int64_t place) {
  const char *from = (const char *)a->grad_out + place * s->size * s->bytes;
  if (s->storage == STORAGE_FLOAT32) return (const float *)from;
  fv_read_numbers(s->storage, from, w->grads, s->size);
  return w->grads;
}

/* w->grads: the gradient of the relation from that of relu(scale * relation + shift); `own`: add
 * to those of scale and shift.
 */
FV_INLINE void before_activation(const fv_sizes *s, const fv_workspace *w,
                                 const fv_shared *shared, const float *grad, bool own) {
  int i = 0;
  for (; i + L <= s->size; i += L) {
    const fv_f x = fv_load(w->related + i), scale = fv_load(shared->scale + i);
    const fv_i on = x * scale + fv_load(shared->shift + i) > 0.0f;
    const fv_f kept = fv_select(on, fv_load(grad + i), (fv_f){0});
    fv_store(w->grads + i, kept * scale);
    if (!own) continue;
    fv_store(w->d_shift + i, fv_load(w->d_shift + i) + kept);
    fv_store(w->d_scale + i, fv_load(w->d_scale + i) + kept * x);
  }
  for (; i < s->size; ++i) {
    const float x = w->related[i], scale = shared->scale[i];
    const float kept = x * scale + shared->shift[i] > 0.0f ? grad[i] : 0.0f;
    w->grads[i] = kept * scale;
    if (!own) continue;
    w->d_shift[i] += kept;
    w->d_scale[i] += kept * x;
  }
}

/* Query gradients of a thread's rows are those of its own positions. */
static void query_grad(const fv_arguments *a, const fv_sizes *s, const float *grad, int64_t place) {
  float *to = a->dq + place * s->dim;
  memcpy(to, grad, sizeof(float) * (size_t)s->dim);
  if (a->relation == RELATION_DIFFERENCE)
    for (int t = 1; t < s->count; ++t) add(to, grad + (ptrdiff_t)t * s->dim, 1.0f, s->dim);
}

/* Gradients for keys, (taps, dim). */
FV_INLINE const float *by_taps(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                               const float *grad) {
  if (a->relation == RELATION_DIFFERENCE) return grad;
  fv_transpose(grad + s->dim, s->count, w->moved, s->dim, s->dim, s->count, 1.0f);
  return w->moved;
}

static void grads_of_rows(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                          const fv_shared *shared, const fv_rows *rows) {
  const fv_taps *taps = &shared->taps;
  const float sign = a->relation == RELATION_DIFFERENCE ? -1.0f : 1.0f;
  float *begin = a->dk + place_of(a, rows->image, rows->first, 0) * s->dim;
  memset(begin, 0, sizeof(float) * (size_t)((rows->last - rows->first) * a->width * s->dim));
  for (int64_t y = 0; y < a->height; ++y) {
    const bool own = y >= rows->first && y < rows->last;
    if (!own && !fv_row_reaches(taps, y, rows->first, rows->last)) continue;
    for (int64_t x = 0; x < a->width; ++x) {
      const int64_t place = place_of(a, rows->image, y, x);
      const float *grad = grad_at(a, s, w, place);
      if (a->scale) {
        relate(a, s, w, taps, rows->image, y, x, w->related);
        before_activation(s, w, shared, grad, own);
        grad = w->grads;
      }
      if (own) query_grad(a, s, grad, place);
      const float *of_taps = by_taps(a, s, w, grad);
      const int count = fv_taps_at(taps, y, x, rows->first, rows->last, w->taps);
      for (int i = 0; i < count; ++i)
        add(a->dk + place_of(a, rows->image, w->taps[i].row, w->taps[i].column) * s->dim,
            of_taps + (ptrdiff_t)w->taps[i].tap * s->dim, sign, s->dim);
    }
  }
}

/* The sum over threads and, of differences, over taps. */
static void sum_shares(const fv_arguments *a, const fv_sizes *s, const float *shares, size_t step,
                       float *to) {
  const int count = affine_size(a, s);
  memset(to, 0, sizeof(float) * (size_t)count);
  for (int thread = 0; thread < s->threads; ++thread, shares += step)
    for (int i = 0; i < s->size; i += count) add(to, shares + i, 1.0f, count);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(relation_backward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->grad_out && a->dq && a->dk && (!a->d_scale || a->scale));
  fv_shared shared;
  fv_workspace first;
  fv_arena common = {0}, own = {0};
  plan_shared(&shared, &common, a, s);
  plan(&first, &own, s);
  float *memory = fv_alloc(common.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  common = (fv_arena){memory, 0};
  plan_shared(&shared, &common, a, s);
  fill_shared(&shared, a, s);
  memset(memory + common.used, 0, sizeof(float) * (size_t)s->threads * own.used);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + common.used + (size_t)fv_thread() * own.used, 0};
    plan(&w, &arena, s);
    const fv_range share = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = share.begin; row < share.end;) {
      const fv_rows rows = fv_rows_at(a->height, row, share.end);
      grads_of_rows(a, s, &w, &shared, &rows);
      row += rows.last - rows.first;
    }
  }
  if (a->d_scale) {
    own = (fv_arena){memory + common.used, 0};
    plan(&first, &own, s);
    sum_shares(a, s, first.d_scale, own.used, a->d_scale);
    sum_shares(a, s, first.d_shift, own.used, a->d_shift);
  }
  fv_free(memory);
  return 0;
}
