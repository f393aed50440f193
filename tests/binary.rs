//! What the command is, as a file: static and without relocations, since both are paid for at every start.

use object::elf::{PT_DYNAMIC, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

#[test]
fn the_command_has_nothing_to_be_linked_or_relocated_at_start() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_preheat")).unwrap();
    let header = object::elf::FileHeader64::<object::Endianness>::parse(&*bytes).unwrap();
    let endian = header.endian().unwrap();
    assert_eq!(header.e_type(endian), object::elf::ET_EXEC, "linked at a fixed address");
    for segment in header.program_headers(endian, &*bytes).unwrap() {
        assert!(![PT_INTERP, PT_DYNAMIC].contains(&segment.p_type(endian)), "no dynamic linker, no dynamic relocations");
    }
}
