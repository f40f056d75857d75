# From the loader (PVH: 32-bit protected mode, paging off, %ebx = hvm_start_info) or from a start-up IPI to 64-bit Rust.
# 32-bit code here runs at its physical address: symbols are used less KERNEL_BASE.

.set BASE, 0xffffffff80000000
.set TRAMPOLINE, 0x8000            # physical page of the AP's real-mode code, see arch::smp

.section .note.pvh, "a", @note
    .align 4
    .long 4, 8, 18                 # name bytes, value bytes, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start - BASE

.section .boot.text, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov %ebx, %ebp
    mov $(bss_start - BASE), %edi
    mov $(bss_end - BASE), %ecx
    sub %edi, %ecx
    shr $2, %ecx
    xor %eax, %eax
    rep stosl
    mov $(boot_stack_top - BASE), %esp

    # Five levels when the command line says la57=1 and CPUID.(7,0):ECX bit 16 agrees. It has to be settled here:
    # CR4.LA57 cannot change while paging is on.
    mov 24(%ebp), %esi             # hvm_start_info.cmdline_paddr
    test %esi, %esi
    jz 3f
1:  mov (%esi), %al
    test %al, %al
    jz 3f
    cmpl $0x3735616c, (%esi)       # "la57"
    jne 2f
    cmpw $0x313d, 4(%esi)          # "=1"
    je 4f
2:  inc %esi
    jmp 1b
4:  xor %eax, %eax
    cpuid
    cmp $7, %eax
    jb 3f
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    bt $16, %ecx
    jnc 3f
    orl $0x1000, boot_cr4 - BASE
3:

    # Boot tables: the first 4 GiB at 0, the first GiB at BASE, in 2 MiB pages.
    mov $(boot_directories - BASE), %edi
    mov $0x83, %eax                # present, writable, large
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $(boot_directories - BASE + 3), %eax
    movl %eax, boot_pdpt_low - BASE
    movl %eax, boot_pdpt_high - BASE + 510*8
    add $0x1000, %eax
    movl %eax, boot_pdpt_low - BASE + 8
    add $0x1000, %eax
    movl %eax, boot_pdpt_low - BASE + 16
    add $0x1000, %eax
    movl %eax, boot_pdpt_low - BASE + 24
    movl $(boot_pdpt_low - BASE + 3), boot_pml4 - BASE
    movl $(boot_pdpt_high - BASE + 3), boot_pml4 - BASE + 511*8
    movl $(boot_pml4 - BASE + 3), boot_pml5 - BASE
    movl $(boot_pml4 - BASE + 3), boot_pml5 - BASE + 511*8
    movl $(boot_pml4 - BASE), boot_root - BASE
    testl $0x1000, boot_cr4 - BASE
    jz 1f
    movl $(boot_pml5 - BASE), boot_root - BASE
1:  xor %ebx, %ebx                 # 0: the boot processor

long_mode:
    lgdt boot_gdt_pointer - BASE
    mov boot_cr4 - BASE, %eax
    mov %eax, %cr4
    mov boot_root - BASE, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx          # EFER: SCE, LME, NXE
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $0x80010033, %eax          # CR0: PG, WP, NE, ET, MP, PE; EM and TS clear
    mov %eax, %cr0
    ljmp $0x10, $(start64_low - BASE)

# An application processor arrives here from its trampoline.
.global ap_start32
ap_start32:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %ebx
    jmp long_mode

.code64
start64_low:
    movabs $start64, %rax
    jmp *%rax
start64:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    test %ebx, %ebx
    jnz 1f
    mov %ebp, %edi                 # start info
    lea boot_stack_top(%rip), %rsp
    xor %ebp, %ebp
    call kernel_main
    ud2
1:  mov kernel_root(%rip), %rax    # the kernel's own tables: the stack lies in the linear map
    mov %rax, %cr3
    mov ap_stack(%rip), %rsp
    mov ap_cpu(%rip), %rdi
    xor %ebp, %ebp
    call ap_main
    ud2

# Real-mode start of an application processor; copied to TRAMPOLINE, so it refers to itself by that address.
.section .rodata.trampoline, "a"
.code16
.global ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + (1f - ap_trampoline)
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x08, $(ap_start32 - BASE)
    .balign 4
1:  .word 31
    .long boot_gdt - BASE
ap_trampoline_end:
.code64

.section .rodata.boot_gdt, "a"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff       # 0x08: 32-bit code
    .quad 0x00af9b000000ffff       # 0x10: 64-bit code
    .quad 0x00cf93000000ffff       # 0x18: data
boot_gdt_pointer:
    .word 31
    .quad boot_gdt - BASE

.section .data.boot, "aw"
    .balign 8
.global boot_cr4, kernel_root, ap_stack, ap_cpu
boot_cr4: .quad 0x620              # PAE, OSFXSR, OSXMMEXCPT; LA57 is added
boot_root: .quad 0
kernel_root: .quad 0
ap_stack: .quad 0
ap_cpu: .quad 0

.section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml5: .skip 4096
boot_pml4: .skip 4096
boot_pdpt_low: .skip 4096
boot_pdpt_high: .skip 4096
boot_directories: .skip 4 * 4096
boot_stack: .skip 65536
.global boot_stack, boot_stack_top
boot_stack_top:
.text
