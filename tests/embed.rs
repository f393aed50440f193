//! The library, as an embedder uses it: many threads, many tasks, limits, cancellation.

mod common;

use common::{Home, hello, repo};
use preheat::{
    Builder, Engine, EngineChoice, Freeze, FreezePoint, HostFunction, Image, Output, Request, RunError, Runtime, Value, ValueType,
};

fn image(home: &Home, runtime: &Runtime, engine: Engine, wat: &str) -> Image {
    let home = home.library();
    let builder = Builder::new(&home).unwrap().levels([preheat::CpuLevel::V1]).engine(EngineChoice::Only(engine));
    let built = builder.build_bytes("test", wat.as_bytes()).unwrap();
    assert_eq!(built.engine, Some(engine));
    runtime.load(&home, &built.digest).unwrap()
}

#[test]
fn threads_share_an_image() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::builder().slots(16).build().unwrap();
        let image = image(&home, &runtime, engine, &hello("shared", 0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (stdout, buffer) = Output::buffer(100);
                        assert_eq!(image.run(&Request::new().stdout(stdout)).unwrap(), 0);
                        assert_eq!(&*buffer.contents(), b"shared");
                    }
                });
            }
        });
    }
}

#[test]
fn a_fresh_instance_has_nothing_of_an_earlier_one() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::builder().slots(1).build().unwrap();
        let counter = r#"(module (memory 4) (global $g (mut i32) (i32.const 0))
            (func (export "next") (result i32)
                (i32.store (i32.const 200000) (i32.add (i32.load (i32.const 200000)) (i32.const 1)))
                (global.set $g (i32.add (global.get $g) (i32.const 1)))
                (i32.add (i32.load (i32.const 200000)) (global.get $g))))"#;
        let image = image(&home, &runtime, engine, counter);
        for _ in 0..20 {
            let mut instance = image.instance(&Request::new()).unwrap();
            assert_eq!(instance.call("next", &[]).unwrap(), [Value::I32(2)]);
            assert_eq!(instance.call("next", &[]).unwrap(), [Value::I32(4)]);
        }
    }
}

#[test]
fn more_instances_than_slots_is_an_error_not_a_crash() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::builder().slots(2).build().unwrap();
        let image = image(&home, &runtime, engine, "(module (memory 1))");
        let mut live: Vec<_> = (0..2).map(|_| image.instance(&Request::new()).unwrap()).collect();
        assert!(matches!(image.instance(&Request::new()), Err(RunError::Instantiate(_))));
        live.pop();
        assert!(image.instance(&Request::new()).is_ok(), "a slot that was given back is used again");
    }
}

/// Somebody who may write into the store puts another file in the place of code, at any moment: what runs is what was checked.
#[test]
fn code_that_is_swapped_between_verification_and_mapping_does_not_run() {
    let home = Home::new();
    let library = home.library();
    let (store, level) = (library.store().unwrap(), preheat::CpuLevel::of_host().unwrap());
    let build = |number: u32| {
        let wat = format!(r#"(module (func (export "f") (result i32) i32.const {number}))"#);
        let engine = EngineChoice::Only(preheat::Engine::Wasmtime);
        let builder = Builder::new(&library).unwrap().engine(engine).levels([preheat::CpuLevel::V1]);
        let built = builder.build_bytes("test", wat.as_bytes()).unwrap();
        (built.digest, store.blob_path(&built.code[0].digest))
    };
    let ((good, good_code), (_, evil_code)) = (build(1), build(2));
    let (good_bytes, evil_bytes) = (std::fs::read(&good_code).unwrap(), std::fs::read(evil_code).unwrap());
    let put_in_place = |bytes: &[u8]| {
        let file = home.write("swapped", bytes);
        std::fs::rename(file, &good_code).unwrap();
    };
    let load = || store.load(&good, &library.trust().unwrap(), preheat::LoadOptions::default()).unwrap();
    let runtime = Runtime::new().unwrap();
    // After the image was judged, before its code was opened: it is looked at again.
    let judged = load();
    put_in_place(&evil_bytes);
    assert!(matches!(runtime.link(judged), Err(RunError::Store(preheat::StoreError::Damaged { .. }))));
    put_in_place(&good_bytes);
    // After it was checked, before it is mapped: the open file is mapped.
    let image = load();
    let code = image.code(preheat::Engine::Wasmtime.name(), preheat::TARGET, level).unwrap();
    put_in_place(&evil_bytes);
    let engine = preheat_wasmtime::WasmtimeEngine::new(preheat_wasmtime::EngineOptions::default()).unwrap();
    let loaded = engine.load(code, image.manifest().function.as_ref().unwrap()).unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let called = tokio.block_on(async { loaded.instantiate(&Request::new()).await?.call("f", &[]).await });
    assert_eq!(called.unwrap(), [Value::I32(1)]);
    put_in_place(&good_bytes);
    // While it is mapped.
    let mapped = runtime.link(load()).unwrap();
    put_in_place(&evil_bytes);
    assert_eq!(mapped.instance(&Request::new()).unwrap().call("f", &[]).unwrap(), [Value::I32(1)]);
}

#[test]
fn tasks_run_beside_each_other_and_dropping_cancels() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::new().unwrap();
        let spin = image(&home, &runtime, engine, r#"(module (func (export "_start") (loop br 0)))"#);
        let quick = image(&home, &runtime, engine, &hello("quick", 3));
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio.block_on(async {
            let nothing = Request::new();
            // One thread: the endless guest must let the other in, and dropping it ends it.
            tokio::select! {
                result = spin.run_async(&nothing) => panic!("it can't end: {result:?}"),
                result = async { tokio::task::yield_now().await; quick.run_async(&nothing).await } => assert_eq!(result.unwrap(), 3),
            }
            // The slot that it had is free.
            for _ in 0..300 {
                assert_eq!(quick.run_async(&nothing).await.unwrap(), 3);
            }
        });
    }
}

#[test]
fn a_synchronous_call_inside_an_asynchronous_one_is_refused() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::new().unwrap();
        let quick = image(&home, &runtime, engine, &hello("quick", 0));
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let error = tokio.block_on(async { quick.run(&Request::new()).unwrap_err() });
        assert!(error.to_string().contains("_async"), "{error}");
    }
}

#[test]
fn host_functions_see_the_guest_and_can_fail() {
    for engine in Engine::ALL {
        let home = Home::new();
        let read = HostFunction::new("host", "sum", &[ValueType::I32, ValueType::I32], &[ValueType::I64], |call, args| {
            let [Value::I32(at), Value::I32(len)] = args else { return Err("two i32 are needed".into()) };
            let memory = call.memory().ok_or("no memory")?;
            let range = usize::try_from(*at)?..usize::try_from(at + len)?;
            let bytes = memory.get(range).ok_or("out of bounds")?;
            Ok(vec![Value::I64(bytes.iter().map(|byte| i64::from(*byte)).sum())])
        });
        let wrong = HostFunction::new("host", "wrong", &[], &[ValueType::I32], |_, _| Ok(vec![Value::F64(0.0)]));
        let runtime = Runtime::builder().host_function(read).host_function(wrong).build().unwrap();
        let image = image(
            &home,
            &runtime,
            engine,
            r#"(module
                (import "host" "sum" (func $sum (param i32 i32) (result i64)))
                (import "host" "wrong" (func $wrong (result i32)))
                (memory (export "memory") 1) (data (i32.const 10) "\01\02\03")
                (func (export "sum") (param i32) (result i64) local.get 0 i32.const 3 call $sum)
                (func (export "wrong") (result i32) call $wrong))"#,
        );
        let mut instance = image.instance(&Request::new()).unwrap();
        assert_eq!(instance.call("sum", &[Value::I32(10)]).unwrap(), [Value::I64(6)]);
        let error = instance.call("sum", &[Value::I32(65535)]).unwrap_err();
        assert!(matches!(&error, RunError::Host(_)) && error.to_string().contains("out of bounds"), "{error}");
        let error = image.instance(&Request::new()).unwrap().call("wrong", &[]).unwrap_err();
        assert!(error.to_string().contains("expected [I32]"), "{error}");
    }
}

#[test]
fn output_beyond_its_limit_is_refused() {
    for engine in Engine::ALL {
        let home = Home::new();
        let runtime = Runtime::new().unwrap();
        let image = image(&home, &runtime, engine, &hello("eleven byte", 0));
        let (stdout, buffer) = Output::buffer(4);
        assert_eq!(image.run(&Request::new().stdout(stdout)).unwrap(), 0, "this guest does not look at the error");
        assert!(buffer.contents().len() <= 4);
    }
}

#[test]
fn an_image_of_another_runtime_is_kept_and_refused_by_this_one() {
    let home = Home::new().library();
    let archive = vec![7; 3 << 20];
    let artefacts: [(&str, &[u8]); 2] = [("application/vnd.openjdk.cds", &archive), ("application/vnd.nodejs.snapshot", b"node")];
    let built = Builder::new(&home).unwrap().build_artefacts(&artefacts).unwrap();
    let store = home.store().unwrap();
    let image = store.load(&built.digest, &home.trust().unwrap(), preheat::LoadOptions::default()).unwrap();
    let found: Vec<_> = image.manifest().artefacts.iter().map(|artefact| artefact.media_type.as_str()).collect();
    assert_eq!(found, ["application/vnd.openjdk.cds", "application/vnd.nodejs.snapshot"]);
    assert!(image.manifest().artefacts[0].chunks.is_some());
    let mut bytes = Vec::new();
    use std::io::Read as _;
    image.artefact(&preheat::Digest::of(&archive)).unwrap().file().read_to_end(&mut bytes).unwrap();
    assert!(bytes == archive);
    let error = Runtime::new().unwrap().load(&home, &built.digest).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no Wasm function"), "{error}");
    let twice = Builder::new(&home).unwrap().build_artefacts(&artefacts).unwrap();
    assert_eq!(twice.digest, built.digest);
    assert!(Builder::new(&home).unwrap().build_artefacts(&[("not a type", b"")]).is_err());
    assert!(Builder::new(&home).unwrap().build_artefacts(&[(preheat::media::CODE, b"")]).is_err());
}

#[test]
fn a_frozen_function_whose_slots_were_made_ahead_answers_as_ever() {
    let home = Home::new();
    let library = home.library();
    let runtime = Runtime::builder().slots(8).build().unwrap();
    let input = std::fs::read(repo("examples/inputs/orders.json")).unwrap();
    let freeze = Freeze::at(FreezePoint::Stdin).warmup_request(input.clone());
    let builder = Builder::new(&library).unwrap().levels([preheat::CpuLevel::V1]).engine(EngineChoice::Auto).freeze(freeze);
    let built = builder.build_file(&repo("examples/json-c/json.wasm")).unwrap();
    assert!(built.frozen.unwrap().written > 0);
    let image = runtime.load(&library, &built.digest).unwrap();
    image.prepare(3).unwrap();
    for _ in 0..5 {
        let (stdout, buffer) = Output::buffer(1 << 20);
        assert_eq!(image.run(&Request::new().stdin(input.clone()).stdout(stdout)).unwrap(), 0);
        assert_eq!(*buffer.contents(), std::fs::read(repo("examples/expected/orders.json")).unwrap());
    }
}
