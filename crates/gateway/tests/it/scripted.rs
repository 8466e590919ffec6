//! A backend that plays a script. It stands for the engine in tests of HTTP behaviour, where what matters is when an
//! answer comes and not what it says. Its tokens are bytes: so many tokens as the conversation's texts have bytes.

use freehold_engine::{
    Event, FinishReason, Finished, Flow, GenerationRequest, Sampling, Sink, SubmitError, TokenEvent, TokenLogprobs,
};
use freehold_gateway::{Backend, Conversation, ModelInfo, PromptError};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

/// What happens to every request.
pub(crate) enum Script {
    /// An answer of these texts, one per token; the last one is held back until the end.
    Say(Vec<&'static str>, FinishReason),
    /// As many tokens as are asked for, one for each permit; what the sink says goes back.
    Gated(Mutex<mpsc::Receiver<()>>, tokio::sync::mpsc::UnboundedSender<Flow>),
    /// `Say`, once as many requests as the barrier wants are under way.
    Together(Arc<Barrier>),
    /// It is not taken.
    Refuse(SubmitError),
    /// The template does not like it.
    RefusePrompt,
    /// The template panics.
    PanicInPrompt,
    /// The answer breaks off after a token.
    Die,
}

pub(crate) struct Scripted {
    model: ModelInfo,
    script: Arc<Script>,
    /// Every conversation seen.
    pub(crate) conversations: Mutex<Vec<Conversation>>,
    /// Every request taken.
    pub(crate) requests: Mutex<Vec<GenerationRequest>>,
}

impl Scripted {
    pub(crate) fn new(script: Script) -> Self {
        let model = ModelInfo {
            id: "test/model:1".into(),
            digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            numerics: "cpu-1/kv-f16".into(),
            context_length: 1 << 20,
            vocabulary_size: 256,
            created: 1_700_000_000,
            owned_by: "Tests & Co".into(),
            licence: Some("Apache-2.0 <OR> MIT".into()),
            sampling: Sampling { top_k: 7, ..ModelInfo::DEFAULT_SAMPLING },
        };
        Self { model, script: Arc::new(script), conversations: Mutex::default(), requests: Mutex::default() }
    }

    pub(crate) fn with_context(mut self, context_length: usize) -> Self {
        self.model.context_length = context_length;
        self
    }
}

impl Backend for Scripted {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, PromptError> {
        match *self.script {
            Script::RefusePrompt => return Err(PromptError::Invalid("roles must alternate".into())),
            Script::PanicInPrompt => panic!("the script says so"),
            _ => {}
        }
        self.conversations.lock().unwrap().push(conversation.clone());
        let texts = conversation.messages.iter().map(|message| message["content"].as_str().unwrap());
        Ok(texts.flat_map(str::bytes).map(u32::from).collect())
    }

    fn submit(&self, request: GenerationRequest, sink: Sink) -> Result<(), SubmitError> {
        let (prompt_tokens, context_length) = (request.prompt.len(), self.model.context_length);
        if prompt_tokens >= context_length {
            return Err(SubmitError::ContextLengthExceeded { prompt_tokens, context_length });
        }
        if let Script::Refuse(error) = &*self.script {
            return Err(match error {
                SubmitError::QueueFull => SubmitError::QueueFull,
                _ => SubmitError::ShuttingDown,
            });
        }
        self.requests.lock().unwrap().push(request.clone());
        let script = self.script.clone();
        std::thread::spawn(move || play(&script, &request, sink));
        Ok(())
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        vec![id as u8]
    }
}

fn play(script: &Script, request: &GenerationRequest, mut sink: Sink) {
    let finished = |reason, text: &str, completion_tokens| {
        Event::Finished(Finished {
            reason,
            text: text.into(),
            prompt_tokens: request.prompt.len(),
            cached_tokens: request.prompt.len() / 2,
            completion_tokens,
            prefill_time: Duration::ZERO,
            decode_time: Duration::ZERO,
            drafted_tokens: 0,
            accepted_tokens: 0,
        })
    };
    let token = |text: &str| {
        // A byte that is no text alone, an impossible one, and a letter.
        let top = [(0xc3, -0.5), (0, f32::NEG_INFINITY), (u32::from(b'a'), -7.25)];
        let logprobs = request.logprobs.map(|count| TokenLogprobs { chosen: -0.5, top: top[..count].to_vec() });
        Event::Token(TokenEvent { id: 0xc3, text: text.into(), logprobs })
    };
    match script {
        Script::Say(texts, reason) => {
            let (last, texts) = texts.split_last().unwrap();
            for text in texts {
                sink(token(text));
            }
            sink(finished(*reason, last, texts.len()));
        }
        Script::Gated(permits, flows) => {
            let permits = permits.lock().unwrap();
            let mut tokens = 0;
            while permits.recv().is_ok() {
                let flow = sink(token("x"));
                flows.send(flow).unwrap();
                if flow == Flow::Cancel {
                    return;
                }
                tokens += 1;
            }
            sink(finished(FinishReason::Stop, "", tokens));
        }
        Script::Together(barrier) => {
            barrier.wait();
            sink(token("together"));
            sink(finished(FinishReason::Stop, "", 1));
        }
        Script::Die => {
            sink(token("last words"));
        }
        Script::Refuse(_) | Script::RefusePrompt | Script::PanicInPrompt => unreachable!("refused before"),
    }
}
