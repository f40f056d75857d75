//! What compiled code calls for memory: on a hosted target the C library has them.
//!
//! In assembly, since a compiler turns loops of this kind into calls of these very functions.

use core::arch::naked_asm;

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcpy(_target: *mut u8, _source: *const u8, _bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret",
    )
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memmove(_target: *mut u8, _source: *const u8, _bytes: usize) -> *mut u8 {
    naked_asm!(
        // Forwards unless the target begins inside the source.
        "mov rax, rdi",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jae {memcpy}",
        "lea rdi, [rdi + rdx - 1]",
        "lea rsi, [rsi + rdx - 1]",
        "mov rcx, rdx",
        "std",
        "rep movsb",
        "cld",
        "ret",
        memcpy = sym memcpy,
    )
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memset(_target: *mut u8, _value: i32, _bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcmp(_left: *const u8, _right: *const u8, _bytes: usize) -> i32 {
    naked_asm!(
        "mov rcx, rdx",
        "xor eax, eax",
        "xor edx, edx",
        // With no bytes to compare the flags must say "equal".
        "test rcx, rcx",
        "jz 2f",
        "repe cmpsb",
        "je 2f",
        "movzx eax, byte ptr [rdi - 1]",
        "movzx edx, byte ptr [rsi - 1]",
        "sub edx, eax",
        "mov eax, edx",
        "ret",
        "2:",
        "xor eax, eax",
        "ret",
    )
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn bcmp(_left: *const u8, _right: *const u8, _bytes: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn strlen(_text: *const u8) -> usize {
    naked_asm!(
        "xor eax, eax",
        "2:",
        "cmp byte ptr [rdi + rax], 0",
        "je 3f",
        "inc rax",
        "jmp 2b",
        "3:",
        "ret",
    )
}
