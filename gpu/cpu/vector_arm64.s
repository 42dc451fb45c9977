//go:build !purego

#include "textflag.h"
#include "neon_arm64.h"

// The exponential of portable.go: bounds, log2 e, ln 2 in two parts, the polynomial, 1 and the
// exponent of 1.
DATA exponential<>+0(SB)/4, $0xc2aea8f6
DATA exponential<>+4(SB)/4, $0x42c80000
DATA exponential<>+8(SB)/4, $0x3fb8aa3b
DATA exponential<>+12(SB)/4, $0x3f318000
DATA exponential<>+16(SB)/4, $0xb95e8083
DATA exponential<>+20(SB)/4, $0x39506967
DATA exponential<>+24(SB)/4, $0x3ab743ce
DATA exponential<>+28(SB)/4, $0x3c088908
DATA exponential<>+32(SB)/4, $0x3d2aa9c1
DATA exponential<>+36(SB)/4, $0x3e2aaaaa
DATA exponential<>+40(SB)/4, $0x3f000000
DATA exponential<>+44(SB)/4, $0x3f800000
DATA exponential<>+48(SB)/4, $0x0000007f
GLOBL exponential<>(SB), NOPTR|RODATA, $52

#define EXPTABLE \
	MOVD $exponential<>(SB), R10; \
	VLD1R.P 4(R10), [V16.S4]; \
	VLD1R.P 4(R10), [V17.S4]; \
	VLD1R.P 4(R10), [V18.S4]; \
	VLD1R.P 4(R10), [V19.S4]; \
	VLD1R.P 4(R10), [V20.S4]; \
	VLD1R.P 4(R10), [V21.S4]; \
	VLD1R.P 4(R10), [V22.S4]; \
	VLD1R.P 4(R10), [V23.S4]; \
	VLD1R.P 4(R10), [V24.S4]; \
	VLD1R.P 4(R10), [V25.S4]; \
	VLD1R.P 4(R10), [V26.S4]; \
	VLD1R.P 4(R10), [V27.S4]; \
	VLD1R.P 4(R10), [V28.S4]

// EXP sets V0 to its exponential; V1 to V6 are its own.
#define EXP \
	FCMGT(4, 16, 0); \
	FMIN(0, 0, 17); \
	FMUL(1, 0, 18); \
	FRINTN(1, 1); \
	FMLSV(0, 1, 19); \
	FMLSV(0, 1, 20); \
	MOVE(2, 22); \
	FMLAV(2, 21, 0); \
	MOVE(3, 23); \
	FMLAV(3, 2, 0); \
	MOVE(2, 24); \
	FMLAV(2, 3, 0); \
	MOVE(3, 25); \
	FMLAV(3, 2, 0); \
	MOVE(2, 26); \
	FMLAV(2, 3, 0); \
	FMUL(3, 0, 0); \
	FMLAV(0, 2, 3); \
	FADD(0, 0, 27); \
	FCVTNS(1, 1); \
	HALVE(5, 1); \
	ISUB(6, 1, 5); \
	IADD(5, 5, 28); \
	IADD(6, 6, 28); \
	EXPONENT(5, 5); \
	EXPONENT(6, 6); \
	FMUL(0, 0, 5); \
	FMUL(0, 0, 6); \
	BIC(0, 0, 4)

#define CLEAR(v0, v1, v2, v3) \
	VEOR v0.B16, v0.B16, v0.B16; \
	VEOR v1.B16, v1.B16, v1.B16; \
	VEOR v2.B16, v2.B16, v2.B16; \
	VEOR v3.B16, v3.B16, v3.B16

// func dotNEON(n int, x, y *float32, s *[16]float32)
//
// The lanes of portable.go; n is a multiple of 16, here and where s is.
TEXT ·dotNEON(SB), NOSPLIT, $0-32
	MOVD n+0(FP), R0
	MOVD x+8(FP), R1
	MOVD y+16(FP), R2
	MOVD s+24(FP), R3
	CLEAR(V12, V13, V14, V15)
	CBZ R0, done

loop:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R2), [V4.S4, V5.S4, V6.S4, V7.S4]
	FMLAV(12, 0, 4)
	FMLAV(13, 1, 5)
	FMLAV(14, 2, 6)
	FMLAV(15, 3, 7)
	SUBS $16, R0
	BNE loop

done:
	VST1 [V12.S4, V13.S4, V14.S4, V15.S4], (R3)
	RET

// func dotThreeNEON(n int, x, y, z *float32, s *[16]float32)
TEXT ·dotThreeNEON(SB), NOSPLIT, $0-40
	MOVD n+0(FP), R0
	MOVD x+8(FP), R1
	MOVD y+16(FP), R2
	MOVD z+24(FP), R4
	MOVD s+32(FP), R3
	CLEAR(V12, V13, V14, V15)
	CBZ R0, done

loop:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R2), [V4.S4, V5.S4, V6.S4, V7.S4]
	VLD1.P 64(R4), [V8.S4, V9.S4, V10.S4, V11.S4]
	FMUL(0, 0, 4)
	FMUL(1, 1, 5)
	FMUL(2, 2, 6)
	FMUL(3, 3, 7)
	FMLAV(12, 0, 8)
	FMLAV(13, 1, 9)
	FMLAV(14, 2, 10)
	FMLAV(15, 3, 11)
	SUBS $16, R0
	BNE loop

done:
	VST1 [V12.S4, V13.S4, V14.S4, V15.S4], (R3)
	RET

// func greatestNEON(n int, y *float32) float32
//
// n is a multiple of 16 above 0.
TEXT ·greatestNEON(SB), NOSPLIT, $0-20
	MOVD n+0(FP), R0
	MOVD y+8(FP), R1
	VLD1 (R1), [V4.S4, V5.S4, V6.S4, V7.S4]

loop:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	FMAXNM(4, 4, 0)
	FMAXNM(5, 5, 1)
	FMAXNM(6, 6, 2)
	FMAXNM(7, 7, 3)
	SUBS $16, R0
	BNE loop
	FMAXNM(4, 4, 5)
	FMAXNM(6, 6, 7)
	FMAXNM(4, 4, 6)
	FMAXNMV(0, 4)
	FMOVS F0, ret+16(FP)
	RET

#define SUMEXP(sum) \
	MOVE(0, 30); \
	VLD1 (R1), [V7.S4]; \
	FMLAV(0, 29, 7); \
	EXP; \
	VST1.P [V0.S4], 16(R1); \
	FADD(sum, sum, 0)

// func expNEON(n int, y *float32, a, m float32, s *[16]float32)
//
// y = exp(a·y-m), added in lanes to s.
TEXT ·expNEON(SB), NOSPLIT, $0-32
	MOVD n+0(FP), R0
	MOVD y+8(FP), R1
	MOVD $a+16(FP), R2
	VLD1R (R2), [V29.S4]
	MOVD $m+20(FP), R2
	VLD1R (R2), [V30.S4]
	FNEG(30, 30)
	MOVD s+24(FP), R3
	EXPTABLE
	CLEAR(V12, V13, V14, V15)
	CBZ R0, done

loop:
	SUMEXP(12)
	SUMEXP(13)
	SUMEXP(14)
	SUMEXP(15)
	SUBS $16, R0
	BNE loop

done:
	VST1 [V12.S4, V13.S4, V14.S4, V15.S4], (R3)
	RET

// func scaleNEON(n int, y *float32, b float32)
//
// y *= b; n is a multiple of 4, here and below.
TEXT ·scaleNEON(SB), NOSPLIT, $0-20
	MOVD n+0(FP), R0
	MOVD y+8(FP), R1
	MOVD $b+16(FP), R2
	VLD1R (R2), [V1.S4]
	CBZ R0, done

loop:
	VLD1 (R1), [V0.S4]
	FMUL(0, 0, 1)
	VST1.P [V0.S4], 16(R1)
	SUBS $4, R0
	BNE loop

done:
	RET

// func softmaxBackNEON(n int, dp, p *float32, a, m, inv, d float32)
TEXT ·softmaxBackNEON(SB), NOSPLIT, $0-40
	MOVD n+0(FP), R0
	MOVD dp+8(FP), R1
	MOVD p+16(FP), R2
	MOVD $a+24(FP), R3
	VLD1R (R3), [V29.S4]
	MOVD $m+28(FP), R3
	VLD1R (R3), [V30.S4]
	MOVD $inv+32(FP), R3
	VLD1R (R3), [V31.S4]
	MOVD $d+36(FP), R3
	VLD1R (R3), [V15.S4]
	FNEG(30, 30)
	EXPTABLE
	CBZ R0, done

loop:
	VLD1 (R2), [V7.S4]
	VLD1 (R1), [V8.S4]
	MOVE(0, 30)
	FMLAV(0, 29, 7)
	EXP
	FMUL(0, 0, 31)
	FSUB(8, 8, 15)
	FMUL(8, 8, 29)
	FMUL(8, 8, 0)
	VST1.P [V0.S4], 16(R2)
	VST1.P [V8.S4], 16(R1)
	SUBS $4, R0
	BNE loop

done:
	RET

// func swigluNEON(n int, out, gate, up *float32)
TEXT ·swigluNEON(SB), NOSPLIT, $0-32
	MOVD n+0(FP), R0
	MOVD out+8(FP), R1
	MOVD gate+16(FP), R2
	MOVD up+24(FP), R3
	EXPTABLE
	CBZ R0, done

loop:
	VLD1.P 16(R2), [V7.S4]
	VLD1.P 16(R3), [V8.S4]
	FNEG(0, 7)
	EXP
	FADD(0, 0, 27)
	FDIV(0, 7, 0)
	FMUL(0, 0, 8)
	VST1.P [V0.S4], 16(R1)
	SUBS $4, R0
	BNE loop

done:
	RET

// func swigluBackNEON(n int, dgate, dup, dout, gate, up *float32)
TEXT ·swigluBackNEON(SB), NOSPLIT, $0-48
	MOVD n+0(FP), R0
	MOVD dgate+8(FP), R1
	MOVD dup+16(FP), R2
	MOVD dout+24(FP), R3
	MOVD gate+32(FP), R4
	MOVD up+40(FP), R5
	EXPTABLE
	CBZ R0, done

loop:
	VLD1.P 16(R4), [V7.S4]
	VLD1.P 16(R5), [V8.S4]
	VLD1.P 16(R3), [V9.S4]
	FNEG(0, 7)
	EXP
	FADD(0, 0, 27)
	FDIV(0, 27, 0)
	FMUL(1, 0, 7)
	FMUL(2, 1, 9)
	VST1.P [V2.S4], 16(R2)
	FSUB(2, 27, 0)
	FMLAV(0, 2, 1)
	FMUL(8, 8, 9)
	FMUL(8, 8, 0)
	VST1.P [V8.S4], 16(R1)
	SUBS $4, R0
	BNE loop

done:
	RET
