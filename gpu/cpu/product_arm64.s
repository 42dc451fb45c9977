//go:build !purego

#include "textflag.h"
#include "neon_arm64.h"

// FOUR adds rows r to r+3, whose C starts at register c: three vectors b of B times the
// elements of a.
#define FOUR(c, b0, b1, b2, a) \
	FMLA(c, b0, a, 0); \
	FMLA(c+1, b1, a, 0); \
	FMLA(c+2, b2, a, 0); \
	FMLA(c+3, b0, a, 1); \
	FMLA(c+4, b1, a, 1); \
	FMLA(c+5, b2, a, 1); \
	FMLA(c+6, b0, a, 2); \
	FMLA(c+7, b1, a, 2); \
	FMLA(c+8, b2, a, 2); \
	FMLA(c+9, b0, a, 3); \
	FMLA(c+10, b1, a, 3); \
	FMLA(c+11, b2, a, 3)

// Three registers from or to a row of C.
#define LOAD(v0, v1, v2) \
	VLD1 (R5), [v0.S4, v1.S4, v2.S4]; \
	ADD R4, R5
#define STORE(v0, v1, v2) \
	VST1 [v0.S4, v1.S4, v2.S4], (R3); \
	ADD R4, R3

// func tileNEON(k int, a, b, c *float32, sc int)
//
// C (8, 12) += A·B with A as (k, 8) and B as (k, 12); rows of C are sc bytes apart. C stays in V8 to
// V31. What the next step of k needs is loaded while this one multiplies.
TEXT ·tileNEON(SB), NOSPLIT, $0-40
	MOVD k+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD c+24(FP), R3
	MOVD sc+32(FP), R4
	MOVD R3, R5
	LOAD(V8, V9, V10)
	LOAD(V11, V12, V13)
	LOAD(V14, V15, V16)
	LOAD(V17, V18, V19)
	LOAD(V20, V21, V22)
	LOAD(V23, V24, V25)
	LOAD(V26, V27, V28)
	LOAD(V29, V30, V31)
	TBZ $0, R0, even
	VLD1.P 32(R1), [V0.S4, V1.S4]
	VLD1.P 48(R2), [V2.S4, V3.S4, V4.S4]
	FOUR(8, 2, 3, 4, 0)
	FOUR(20, 2, 3, 4, 1)

even:
	LSR $1, R0
	CBZ R0, done
	VLD1.P 16(R1), [V0.S4]
	VLD1.P 48(R2), [V2.S4, V3.S4, V4.S4]

loop:
	VLD1.P 16(R1), [V1.S4]
	VLD1.P 48(R2), [V5.S4, V6.S4, V7.S4]
	FOUR(8, 2, 3, 4, 0)
	VLD1.P 16(R1), [V0.S4]
	FOUR(20, 2, 3, 4, 1)
	SUBS $1, R0
	BEQ last
	VLD1.P 16(R1), [V1.S4]
	VLD1.P 48(R2), [V2.S4, V3.S4, V4.S4]
	FOUR(8, 5, 6, 7, 0)
	VLD1.P 16(R1), [V0.S4]
	FOUR(20, 5, 6, 7, 1)
	B loop

last:
	VLD1 (R1), [V1.S4]
	FOUR(8, 5, 6, 7, 0)
	FOUR(20, 5, 6, 7, 1)

done:
	STORE(V8, V9, V10)
	STORE(V11, V12, V13)
	STORE(V14, V15, V16)
	STORE(V17, V18, V19)
	STORE(V20, V21, V22)
	STORE(V23, V24, V25)
	STORE(V26, V27, V28)
	STORE(V29, V30, V31)
	RET

// Rows by a panel of 32 columns: C (rows, 32) = or += A·B with C in V0 to V23, four elements of
// a row of A in each of V24 to V26.

#define STEPF32(e) \
	VLD1.P 64(R2), [V28.S4, V29.S4, V30.S4, V31.S4]; \
	ROWS(0, 28, e); \
	ROWS(1, 29, e); \
	ROWS(2, 30, e); \
	ROWS(3, 31, e); \
	VLD1.P 64(R2), [V28.S4, V29.S4, V30.S4, V31.S4]; \
	ROWS(4, 28, e); \
	ROWS(5, 29, e); \
	ROWS(6, 30, e); \
	ROWS(7, 31, e)

// The lower halves of words of B are columns 0 to 15, the upper ones 16 to 31. V31 has ones in
// the upper halves.
#define HALVES(c, e) \
	VLD1.P 32(R2), [V28.S4, V29.S4]; \
	VSHL $16, V28.S4, V27.S4; \
	VSHL $16, V29.S4, V30.S4; \
	VAND V31.B16, V28.B16, V28.B16; \
	VAND V31.B16, V29.B16, V29.B16; \
	ROWS(c, 27, e); \
	ROWS(c+1, 30, e); \
	ROWS(c+4, 28, e); \
	ROWS(c+5, 29, e)

#define STEPBF16(e) \
	HALVES(0, e); \
	HALVES(2, e)

#define LOADROW(p, v0, v1, v2, v3, v4, v5, v6, v7) \
	MOVD p, R11; \
	VLD1.P 64(R11), [v0.S4, v1.S4, v2.S4, v3.S4]; \
	VLD1 (R11), [v4.S4, v5.S4, v6.S4, v7.S4]

#define STOREROW(p, v0, v1, v2, v3, v4, v5, v6, v7) \
	VST1.P [v0.S4, v1.S4, v2.S4, v3.S4], 64(p); \
	VST1 [v4.S4, v5.S4, v6.S4, v7.S4], (p)

#define CLEARROW(v0, v1, v2, v3, v4, v5, v6, v7) \
	VEOR v0.B16, v0.B16, v0.B16; \
	VEOR v1.B16, v1.B16, v1.B16; \
	VEOR v2.B16, v2.B16, v2.B16; \
	VEOR v3.B16, v3.B16, v3.B16; \
	VEOR v4.B16, v4.B16, v4.B16; \
	VEOR v5.B16, v5.B16, v5.B16; \
	VEOR v6.B16, v6.B16, v6.B16; \
	VEOR v7.B16, v7.B16, v7.B16

// Rows of A from R1, R7, R8, sa in R5, of C from R3, R9, R10, sc in R4; k in R0, B in R2, acc in R6.
#define LINEAR(step) \
	ADD R5, R1, R7; \
	ADD R5, R7, R8; \
	ADD R4, R3, R9; \
	ADD R4, R9, R10; \
	CLEARS; \
	CBZ R6, start; \
	LOADS; \
start: \
	LSR $2, R0, R6; \
	AND $3, R0; \
	CBZ R6, rest; \
loop: \
	FOURS; \
	step(0); \
	step(1); \
	step(2); \
	step(3); \
	SUBS $1, R6; \
	BNE loop; \
rest: \
	CBZ R0, done; \
	ONES; \
	step(0); \
	SUB $1, R0; \
	B rest; \
done: \
	STORES; \
	RET

#define ROWS(c, b, e) FMLA(c, b, 24, e)
#define CLEARS \
	CLEARROW(V0, V1, V2, V3, V4, V5, V6, V7)
#define LOADS \
	LOADROW(R3, V0, V1, V2, V3, V4, V5, V6, V7)
#define STORES \
	STOREROW(R3, V0, V1, V2, V3, V4, V5, V6, V7)
#define FOURS VLD1.P 16(R1), [V24.S4]
#define ONES FMOVS.P 4(R1), F24

// func linearNEONF32x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONF32x1(SB), NOSPLIT, $0-72
	ARGUMENTS
	LINEAR(STEPF32)

// func linearNEONBF16x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONBF16x1(SB), NOSPLIT, $0-72
	ARGUMENTS
	HIGH
	LINEAR(STEPBF16)

#undef ROWS
#undef CLEARS
#undef LOADS
#undef STORES
#undef FOURS
#undef ONES
#define ROWS(c, b, e) FMLA(c, b, 24, e); FMLA(8+c, b, 25, e)
#define CLEARS \
	CLEARROW(V0, V1, V2, V3, V4, V5, V6, V7); \
	CLEARROW(V8, V9, V10, V11, V12, V13, V14, V15)
#define LOADS \
	LOADROW(R3, V0, V1, V2, V3, V4, V5, V6, V7); \
	LOADROW(R9, V8, V9, V10, V11, V12, V13, V14, V15)
#define STORES \
	STOREROW(R3, V0, V1, V2, V3, V4, V5, V6, V7); \
	STOREROW(R9, V8, V9, V10, V11, V12, V13, V14, V15)
#define FOURS VLD1.P 16(R1), [V24.S4]; VLD1.P 16(R7), [V25.S4]
#define ONES FMOVS.P 4(R1), F24; FMOVS.P 4(R7), F25

// func linearNEONF32x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONF32x2(SB), NOSPLIT, $0-72
	ARGUMENTS
	LINEAR(STEPF32)

// func linearNEONBF16x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONBF16x2(SB), NOSPLIT, $0-72
	ARGUMENTS
	HIGH
	LINEAR(STEPBF16)

#undef ROWS
#undef CLEARS
#undef LOADS
#undef STORES
#undef FOURS
#undef ONES
#define ROWS(c, b, e) FMLA(c, b, 24, e); FMLA(8+c, b, 25, e); FMLA(16+c, b, 26, e)
#define CLEARS \
	CLEARROW(V0, V1, V2, V3, V4, V5, V6, V7); \
	CLEARROW(V8, V9, V10, V11, V12, V13, V14, V15); \
	CLEARROW(V16, V17, V18, V19, V20, V21, V22, V23)
#define LOADS \
	LOADROW(R3, V0, V1, V2, V3, V4, V5, V6, V7); \
	LOADROW(R9, V8, V9, V10, V11, V12, V13, V14, V15); \
	LOADROW(R10, V16, V17, V18, V19, V20, V21, V22, V23)
#define STORES \
	STOREROW(R3, V0, V1, V2, V3, V4, V5, V6, V7); \
	STOREROW(R9, V8, V9, V10, V11, V12, V13, V14, V15); \
	STOREROW(R10, V16, V17, V18, V19, V20, V21, V22, V23)
#define FOURS VLD1.P 16(R1), [V24.S4]; VLD1.P 16(R7), [V25.S4]; VLD1.P 16(R8), [V26.S4]
#define ONES FMOVS.P 4(R1), F24; FMOVS.P 4(R7), F25; FMOVS.P 4(R8), F26

// func linearNEONF32x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONF32x3(SB), NOSPLIT, $0-72
	ARGUMENTS
	LINEAR(STEPF32)

// func linearNEONBF16x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)
TEXT ·linearNEONBF16x3(SB), NOSPLIT, $0-72
	ARGUMENTS
	HIGH
	LINEAR(STEPBF16)
