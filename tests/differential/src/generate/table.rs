//! The operators that compute, by their types.

/// The operands and the result of operators (`i`, `l`, `f`, `d`, `v` for the number types; `z` and `Z` for a divisor; `F` and `D` for a number
/// that a conversion should find in range; `a` for an address), and the operators. One that ends in `#N` has an immediate lane below N; `@`
/// is a place in memory.
pub(super) const OPERATORS: &[(&str, &str)] = &[
    ("i:i", "i32.eqz i32.clz i32.ctz i32.popcnt i32.extend8_s i32.extend16_s"),
    ("ii:i", "i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u i32.le_s i32.le_u i32.ge_s i32.ge_u"),
    ("ii:i", "i32.add i32.sub i32.mul i32.and i32.or i32.xor i32.shl i32.shr_s i32.shr_u i32.rotl i32.rotr"),
    ("iz:i", "i32.div_s i32.div_u i32.rem_s i32.rem_u"),
    ("l:i", "i64.eqz i32.wrap_i64"),
    ("l:l", "i64.clz i64.ctz i64.popcnt i64.extend8_s i64.extend16_s i64.extend32_s"),
    ("ll:i", "i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s i64.le_u i64.ge_s i64.ge_u"),
    ("ll:l", "i64.add i64.sub i64.mul i64.and i64.or i64.xor i64.shl i64.shr_s i64.shr_u i64.rotl i64.rotr"),
    ("lZ:l", "i64.div_s i64.div_u i64.rem_s i64.rem_u"),
    ("i:l", "i64.extend_i32_s i64.extend_i32_u"),
    ("ff:i", "f32.eq f32.ne f32.lt f32.gt f32.le f32.ge"),
    ("dd:i", "f64.eq f64.ne f64.lt f64.gt f64.le f64.ge"),
    ("f:f", "f32.abs f32.neg f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt"),
    ("ff:f", "f32.add f32.sub f32.mul f32.div f32.min f32.max f32.copysign"),
    ("d:d", "f64.abs f64.neg f64.ceil f64.floor f64.trunc f64.nearest f64.sqrt"),
    ("dd:d", "f64.add f64.sub f64.mul f64.div f64.min f64.max f64.copysign"),
    ("F:i", "i32.trunc_f32_s i32.trunc_f32_u"),
    ("D:i", "i32.trunc_f64_s i32.trunc_f64_u"),
    ("F:l", "i64.trunc_f32_s i64.trunc_f32_u"),
    ("D:l", "i64.trunc_f64_s i64.trunc_f64_u"),
    ("f:i", "i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.reinterpret_f32"),
    ("d:i", "i32.trunc_sat_f64_s i32.trunc_sat_f64_u"),
    ("f:l", "i64.trunc_sat_f32_s i64.trunc_sat_f32_u"),
    ("d:l", "i64.trunc_sat_f64_s i64.trunc_sat_f64_u i64.reinterpret_f64"),
    ("i:f", "f32.convert_i32_s f32.convert_i32_u f32.reinterpret_i32"),
    ("l:f", "f32.convert_i64_s f32.convert_i64_u"),
    ("d:f", "f32.demote_f64"),
    ("i:d", "f64.convert_i32_s f64.convert_i32_u"),
    ("l:d", "f64.convert_i64_s f64.convert_i64_u f64.reinterpret_i64"),
    ("f:d", "f64.promote_f32"),
    ("a:i", "i32.load@ i32.load8_s@ i32.load8_u@ i32.load16_s@ i32.load16_u@"),
    ("a:l", "i64.load@ i64.load8_s@ i64.load8_u@ i64.load16_s@ i64.load16_u@ i64.load32_s@ i64.load32_u@"),
    ("a:f", "f32.load@"),
    ("a:d", "f64.load@"),
    ("a:v", "v128.load@ v128.load8x8_s@ v128.load8x8_u@ v128.load16x4_s@ v128.load16x4_u@ v128.load32x2_s@ v128.load32x2_u@"),
    ("a:v", "v128.load8_splat@ v128.load16_splat@ v128.load32_splat@ v128.load64_splat@ v128.load32_zero@ v128.load64_zero@"),
    ("av:v", "v128.load8_lane@#16 v128.load16_lane@#8 v128.load32_lane@#4 v128.load64_lane@#2"),
    ("ai:", "i32.store@ i32.store8@ i32.store16@"),
    ("al:", "i64.store@ i64.store8@ i64.store16@ i64.store32@"),
    ("af:", "f32.store@"),
    ("ad:", "f64.store@"),
    ("av:", "v128.store@ v128.store8_lane@#16 v128.store16_lane@#8 v128.store32_lane@#4 v128.store64_lane@#2"),
    ("v:v", "v128.not"),
    ("vv:v", "v128.and v128.andnot v128.or v128.xor i8x16.swizzle i8x16.shuffle"),
    ("vvv:v", "v128.bitselect"),
    ("v:i", "v128.any_true i8x16.all_true i16x8.all_true i32x4.all_true i64x2.all_true"),
    ("v:i", "i8x16.bitmask i16x8.bitmask i32x4.bitmask i64x2.bitmask"),
    ("v:i", "i8x16.extract_lane_s#16 i8x16.extract_lane_u#16 i16x8.extract_lane_s#8 i16x8.extract_lane_u#8 i32x4.extract_lane#4"),
    ("v:l", "i64x2.extract_lane#2"),
    ("v:f", "f32x4.extract_lane#4"),
    ("v:d", "f64x2.extract_lane#2"),
    ("vi:v", "i8x16.replace_lane#16 i16x8.replace_lane#8 i32x4.replace_lane#4"),
    ("vl:v", "i64x2.replace_lane#2"),
    ("vf:v", "f32x4.replace_lane#4"),
    ("vd:v", "f64x2.replace_lane#2"),
    ("i:v", "i8x16.splat i16x8.splat i32x4.splat"),
    ("l:v", "i64x2.splat"),
    ("f:v", "f32x4.splat"),
    ("d:v", "f64x2.splat"),
    ("vv:v", "i8x16.eq i8x16.ne i8x16.lt_s i8x16.lt_u i8x16.gt_s i8x16.gt_u i8x16.le_s i8x16.le_u i8x16.ge_s i8x16.ge_u"),
    ("vv:v", "i16x8.eq i16x8.ne i16x8.lt_s i16x8.lt_u i16x8.gt_s i16x8.gt_u i16x8.le_s i16x8.le_u i16x8.ge_s i16x8.ge_u"),
    ("vv:v", "i32x4.eq i32x4.ne i32x4.lt_s i32x4.lt_u i32x4.gt_s i32x4.gt_u i32x4.le_s i32x4.le_u i32x4.ge_s i32x4.ge_u"),
    ("vv:v", "i64x2.eq i64x2.ne i64x2.lt_s i64x2.gt_s i64x2.le_s i64x2.ge_s"),
    ("vv:v", "f32x4.eq f32x4.ne f32x4.lt f32x4.gt f32x4.le f32x4.ge f64x2.eq f64x2.ne f64x2.lt f64x2.gt f64x2.le f64x2.ge"),
    ("v:v", "i8x16.abs i8x16.neg i8x16.popcnt i16x8.abs i16x8.neg i32x4.abs i32x4.neg i64x2.abs i64x2.neg"),
    ("vi:v", "i8x16.shl i8x16.shr_s i8x16.shr_u i16x8.shl i16x8.shr_s i16x8.shr_u"),
    ("vi:v", "i32x4.shl i32x4.shr_s i32x4.shr_u i64x2.shl i64x2.shr_s i64x2.shr_u"),
    ("vv:v", "i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u i16x8.narrow_i32x4_s i16x8.narrow_i32x4_u"),
    ("vv:v", "i8x16.add i8x16.add_sat_s i8x16.add_sat_u i8x16.sub i8x16.sub_sat_s i8x16.sub_sat_u"),
    ("vv:v", "i8x16.min_s i8x16.min_u i8x16.max_s i8x16.max_u i8x16.avgr_u"),
    ("vv:v", "i16x8.add i16x8.add_sat_s i16x8.add_sat_u i16x8.sub i16x8.sub_sat_s i16x8.sub_sat_u i16x8.mul"),
    ("vv:v", "i16x8.min_s i16x8.min_u i16x8.max_s i16x8.max_u i16x8.avgr_u i16x8.q15mulr_sat_s"),
    ("vv:v", "i32x4.add i32x4.sub i32x4.mul i32x4.min_s i32x4.min_u i32x4.max_s i32x4.max_u i32x4.dot_i16x8_s"),
    ("vv:v", "i64x2.add i64x2.sub i64x2.mul"),
    ("v:v", "i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u i32x4.extadd_pairwise_i16x8_s i32x4.extadd_pairwise_i16x8_u"),
    ("v:v", "i16x8.extend_low_i8x16_s i16x8.extend_high_i8x16_s i16x8.extend_low_i8x16_u i16x8.extend_high_i8x16_u"),
    ("v:v", "i32x4.extend_low_i16x8_s i32x4.extend_high_i16x8_s i32x4.extend_low_i16x8_u i32x4.extend_high_i16x8_u"),
    ("v:v", "i64x2.extend_low_i32x4_s i64x2.extend_high_i32x4_s i64x2.extend_low_i32x4_u i64x2.extend_high_i32x4_u"),
    ("vv:v", "i16x8.extmul_low_i8x16_s i16x8.extmul_high_i8x16_s i16x8.extmul_low_i8x16_u i16x8.extmul_high_i8x16_u"),
    ("vv:v", "i32x4.extmul_low_i16x8_s i32x4.extmul_high_i16x8_s i32x4.extmul_low_i16x8_u i32x4.extmul_high_i16x8_u"),
    ("vv:v", "i64x2.extmul_low_i32x4_s i64x2.extmul_high_i32x4_s i64x2.extmul_low_i32x4_u i64x2.extmul_high_i32x4_u"),
    ("v:v", "f32x4.abs f32x4.neg f32x4.sqrt f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest"),
    ("v:v", "f64x2.abs f64x2.neg f64x2.sqrt f64x2.ceil f64x2.floor f64x2.trunc f64x2.nearest"),
    ("vv:v", "f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max f32x4.pmin f32x4.pmax"),
    ("vv:v", "f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max f64x2.pmin f64x2.pmax"),
    ("v:v", "i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero"),
    ("v:v", "f32x4.convert_i32x4_s f32x4.convert_i32x4_u f64x2.convert_low_i32x4_s f64x2.convert_low_i32x4_u"),
    ("v:v", "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4"),
];

/// Relaxed operators, in the same form. Modules have them or not, since with them both engines have to compile for the same CPU level.
pub(super) const RELAXED: &[(&str, &str)] = &[
    ("vv:v", "i8x16.relaxed_swizzle i16x8.relaxed_q15mulr_s i16x8.relaxed_dot_i8x16_i7x16_s"),
    ("v:v", "i32x4.relaxed_trunc_f32x4_s i32x4.relaxed_trunc_f32x4_u i32x4.relaxed_trunc_f64x2_s_zero i32x4.relaxed_trunc_f64x2_u_zero"),
    ("vvv:v", "f32x4.relaxed_madd f32x4.relaxed_nmadd f64x2.relaxed_madd f64x2.relaxed_nmadd i32x4.relaxed_dot_i8x16_i7x16_add_s"),
    ("vvv:v", "i8x16.relaxed_laneselect i16x8.relaxed_laneselect i32x4.relaxed_laneselect i64x2.relaxed_laneselect"),
    ("vv:v", "f32x4.relaxed_min f32x4.relaxed_max f64x2.relaxed_min f64x2.relaxed_max"),
];

/// An operator: operands, result, and its name with the marks of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator {
    pub(super) operands: &'static str,
    pub(super) result: Option<char>,
    pub(super) name: &'static str,
}

/// The operators of a table.
pub(super) fn operators(table: &'static [(&'static str, &'static str)]) -> impl Iterator<Item = Operator> {
    table.iter().flat_map(|(signature, names)| {
        let (operands, result) = signature.split_once(':').unwrap_or((signature, ""));
        names.split(' ').map(move |name| Operator { operands, result: result.chars().next(), name })
    })
}
