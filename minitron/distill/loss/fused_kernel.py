"""Triton kernel of the fused loss; one program computes one row."""

# B columns of a block

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(
        "the fused loss needs triton, which is not installed; `pip install minitron[kernels]` brings it"
    ) from error

WARPS = 8
_MAX_BLOCK = 2048


def block_columns(columns: int) -> int:
    """Columns that a program holds at once, of a row that has so many."""
    # Never fewer than threads: of two threads that share a column, one could read it after the other overwrote it.
    return max(32 * WARPS, min(_MAX_BLOCK, 1 << (columns - 1).bit_length()))


@triton.jit
def row_kernel(logits, outputs, columns, weights, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """A row's loss and cross-entropy; the gradient replaces the student's logits.

    logits: (student's rows, their stride, teacher's rows, their stride, labels); teacher and labels may be None.
    outputs: (losses, cross-entropies), one a row.
    weights: (temperature, cross-entropy's weight, beta, log beta, log(1 - beta)).
    MODE: (kind of divergence, whether there is a cross-entropy, whether both softmaxes are at the same temperature).
    """
    KIND: tl.constexpr = MODE[0]
    HAS_CROSS_ENTROPY: tl.constexpr = MODE[1]
    AT_ONE: tl.constexpr = MODE[2]
    temperature, cross_entropy_weight, mixture = weights[0], weights[1], (weights[2], weights[3], weights[4])
    # int64, since C * V can pass 2^31.
    row = tl.program_id(0).to(tl.int64)
    student_ptr = logits[0] + row * logits[1]
    scale = 1.0 if KIND == "none" else 1 / temperature
    label = -1
    label_logit = 0.0
    if HAS_CROSS_ENTROPY:
        # Read before any thread of the row can overwrite it: the reductions below are barriers.
        label = tl.load(logits[4] + row)
        label_logit = tl.load(student_ptr + label, (label >= 0) & (label < columns), float("nan"))
    teacher_ptr = student_ptr
    norm_p = (0.0, 0.0)
    if KIND != "none":
        teacher_ptr = logits[2] + row * logits[3]
        top_p, log_sum_p, _ = _log_sums(teacher_ptr, columns, scale, True, BLOCK)
        norm_p = (top_p, log_sum_p)
    top_q, log_sum_q, log_sum_at_one = _log_sums(student_ptr, columns, scale, AT_ONE, BLOCK)
    rows = (teacher_ptr, norm_p, student_ptr, (top_q, log_sum_q))
    loss = 0.0
    mean_slope = 0.0
    if KIND == "reverse_kl" or KIND == "jsd":
        loss, mean_slope = _row_loss(rows, columns, scale, mixture, KIND, BLOCK)
    loss_B = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        column_B = start + tl.arange(0, BLOCK)
        inside_B = column_B < columns
        student_B = tl.load(student_ptr + column_B, inside_B, 0.0)
        log_q_B = _log_probs(student_B, rows[3], scale)
        grad_B = tl.zeros([BLOCK], tl.float32)
        if KIND != "none":
            log_p_B = _log_probs(tl.load(teacher_ptr + column_B, inside_B, 0.0), norm_p, scale)
            grad_B = _grad(log_p_B, log_q_B, mean_slope, mixture, KIND)
            if KIND == "forward_kl":
                # grad_B, q - p, sums to 0 and takes away the rounding of the normalizers, as in `divergences`.
                loss_B += tl.where(inside_B, tl.exp(log_p_B) * (log_p_B - log_q_B) + grad_B, 0.0)
            grad_B *= temperature
        if HAS_CROSS_ENTROPY:
            at_one_B = tl.exp(log_q_B if AT_ONE else student_B - top_q - log_sum_at_one)
            grad_B += cross_entropy_weight * (at_one_B - tl.where(column_B == label, 1.0, 0.0))
        tl.store(student_ptr + column_B, grad_B, inside_B)
    loss = tl.sum(loss_B) if KIND == "forward_kl" else loss
    tl.store(outputs[0] + row, loss * temperature * temperature)
    tl.store(outputs[1] + row, log_sum_at_one - (label_logit - top_q) if HAS_CROSS_ENTROPY else 0.0)


@triton.jit
def _log_sums(logits_ptr, columns, scale, AT_ONE: tl.constexpr, BLOCK: tl.constexpr):
    """A row's maximum, and the logs of its sums of exp(scale (x - maximum)) and exp(x - maximum), equal if AT_ONE."""
    top = float("-inf")
    total = 0.0
    total_at_one = 0.0
    for start in range(0, columns, BLOCK):
        column_B = start + tl.arange(0, BLOCK)
        x_B = tl.load(logits_ptr + column_B, column_B < columns, float("-inf"))
        higher = tl.maximum(top, tl.max(x_B))
        total = total * tl.exp((top - higher) * scale) + tl.sum(tl.exp((x_B - higher) * scale))
        if not AT_ONE:
            total_at_one = total_at_one * tl.exp(top - higher) + tl.sum(tl.exp(x_B - higher))
        top = higher
    log_sum = tl.log(total)
    return top, log_sum, log_sum if AT_ONE else tl.log(total_at_one)


@triton.jit
def _log_probs(logits_B, norm, scale):
    # The maximum goes first: a quotient by T would round at the logits' size, not at their difference's.
    return (logits_B - norm[0]) * scale - norm[1]


@triton.jit
def _row_loss(rows, columns, scale, mixture, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """A row's reverse KL or JSD, and the mean under q of the slope that its gradient needs."""
    teacher_ptr, norm_p, student_ptr, norm_q = rows[0], rows[1], rows[2], rows[3]
    loss_B = tl.zeros([BLOCK], tl.float32)
    slope_sum_B = tl.zeros([BLOCK], tl.float32)
    q_sum_B = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        column_B = start + tl.arange(0, BLOCK)
        inside_B = column_B < columns
        log_p_B = _log_probs(tl.load(teacher_ptr + column_B, inside_B, 0.0), norm_p, scale)
        log_q_B = _log_probs(tl.load(student_ptr + column_B, inside_B, 0.0), norm_q, scale)
        q_B = tl.exp(log_q_B)
        loss_B += tl.where(inside_B, _terms(log_p_B, log_q_B, mixture, KIND), 0.0)
        slope_sum_B += tl.where(inside_B, q_B * _slope(log_p_B, log_q_B, mixture, KIND), 0.0)
        q_sum_B += tl.where(inside_B, q_B, 0.0)
    # q sums to 1 but for rounding, which would not cancel where the slopes are large and close to each other.
    return tl.sum(loss_B), tl.sum(slope_sum_B) / tl.sum(q_sum_B)


@triton.jit
def _terms(log_p_B, log_q_B, mixture, KIND: tl.constexpr):
    """Terms of reverse KL or JSD; p - q, m - p and m - q sum to 0 and take away the rounding of the normalizers."""
    p_B, q_B = tl.exp(log_p_B), tl.exp(log_q_B)
    if KIND == "reverse_kl":
        return q_B * (log_q_B - log_p_B) + (p_B - q_B)
    beta, log_beta, log_1m_beta = mixture
    further_B = _log_one_plus_exp(-tl.abs(log_p_B - log_q_B + (log_beta - log_1m_beta)))
    log_m_B = tl.maximum(log_p_B + log_beta, log_q_B + log_1m_beta) + further_B
    m_B = tl.exp(log_m_B)
    from_p_B = p_B * (log_p_B - log_m_B) + (m_B - p_B)
    from_q_B = q_B * (log_q_B - log_m_B) + (m_B - q_B)
    return beta * from_p_B + (1 - beta) * from_q_B


@triton.jit
def _grad(log_p_B, log_q_B, mean_slope, mixture, KIND: tl.constexpr):
    """The divergence's gradient by the student's logits over T."""
    q_B = tl.exp(log_q_B)
    if KIND == "forward_kl":
        return q_B - tl.exp(log_p_B)
    return q_B * (_slope(log_p_B, log_q_B, mixture, KIND) - mean_slope)


@triton.jit
def _slope(log_p_B, log_q_B, mixture, KIND: tl.constexpr):
    """The divergence's derivative by q, but for a constant: log q/p for reverse KL, (1 - beta) log q/m for JSD."""
    if KIND == "reverse_kl":
        return log_q_B - log_p_B
    beta, log_beta, log_1m_beta = mixture
    # log q/m less its most, -log(1 - beta): small where q is far above p, where a difference of logs would be rounding.
    odds_B = log_p_B - log_q_B + (log_beta - log_1m_beta)
    return (beta - 1) * (tl.maximum(odds_B, 0.0) + _log_one_plus_exp(-tl.abs(odds_B)))


@triton.jit
def _log_one_plus_exp(x_B):
    """log(1 + exp(x)) for x <= 0, exact to rounding where exp(x) is small."""
    exp_B = tl.exp(x_B)
    sum_B = 1 + exp_B
    # The quotient puts back what rounding took from the sum.
    return tl.where(sum_B == 1, exp_B, tl.log(sum_B) * (exp_B / tl.where(sum_B == 1, 1.0, sum_B - 1)))
