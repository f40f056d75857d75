# Entry from interrupts, exceptions and system calls. Each builds a `Context` (arch::context) on its stack and hands it
# to Rust, which may put another task's context in its place; then that is restored.

# Names with a type and a size, so that samples here have a function.
.macro function name
    .type \name, @function
\name:
.endm
.macro end_function name
    .size \name, . - \name
.endm

.macro push_registers
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $512, %rsp                # 176 bytes are above: still 16-byte aligned
    fxsave64 (%rsp)
    cld
    movq %rsp, %rdi
    xorl %ebp, %ebp                # call chains of handlers end here
.endm

.macro pop_registers
    fxrstor64 (%rsp)
    addq $512, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp                 # vector, error code
.endm

# One stub a vector, 16 bytes apart. Vectors 8, 10-14, 17, 21, 29, 30 push an error code themselves (Intel SDM 3A §6.13).
.section .text.entry, "ax"
.balign 16
.global trap_stubs
function trap_stubs
.set vector, 0
.rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
        pushq $0
    .endif
    pushq $vector
    .if vector == 2 || vector == 8 || vector == 18
        jmp trap_paranoid
    .else
        jmp trap_common
    .endif
    .set vector, vector + 1
.endr
end_function trap_stubs

.balign 16
function trap_common
    testb $3, 24(%rsp)             # code segment interrupted
    jz 1f
    swapgs
1:  push_registers
    call trap_handler
end_function trap_common
function context_restore
    pop_registers
    testb $3, 8(%rsp)
    jz 1f
    swapgs
1:  iretq
end_function context_restore

# NMI, double fault, machine check: they can come between a ring change and its swapgs, so the GS base itself is asked.
function trap_paranoid
    push_registers
    xorl %ebx, %ebx
    movl $0xc0000101, %ecx         # GS base: the kernel's is negative, user mode cannot make its own so
    rdmsr
    testl %edx, %edx
    js 1f
    swapgs
    movl $1, %ebx
1:  call trap_handler
    testl %ebx, %ebx
    jz 1f
    swapgs
1:  pop_registers
    iretq
end_function trap_paranoid

# syscall: interrupts are off by SFMASK until the stack is the task's. Offsets into `Cpu`, see arch::cpu.
.global syscall_entry
function syscall_entry
    swapgs
    movq %rsp, %gs:16
    movq %gs:8, %rsp
    pushq $0x1b                    # user data
    pushq %gs:16
    pushq %r11
    pushq $0x23                    # user code
    pushq %rcx
    pushq $0
    pushq $0x100                   # no vector
    push_registers
    sti
    call syscall_handler
    cli
    jmp context_restore
end_function syscall_entry

# A kernel thread starts here with its function in %rbx and the argument in %rdi.
.global kernel_thread_start
function kernel_thread_start
    xorl %ebp, %ebp
    call *%rbx
    ud2
end_function kernel_thread_start

.text
