//! A template is parsed and written again, with each operator whose work the engine cannot bound, or does otherwise than
//! Python, replaced by a filter of [`super::operators`].
//!
//! The engine charges what an operator makes, but only afterwards, and without what lists hold inside: printing,
//! comparing or hashing a list that holds a list twice, forty times over, would never come to that charge.

use super::marks::{Author, SpecialTokens};
use minijinja::machinery::{Span, ast, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// `source` again, for an environment with the same `syntax`, with the special tokens in its texts marked; and the strings
/// in its expressions. Every tag is on the line that it was on.
pub(super) fn rewrite(
    source: &str,
    special: &SpecialTokens,
    syntax: SyntaxConfig,
) -> Result<(String, Vec<String>), Error> {
    let tree = parse(source, super::NAME, syntax)?;
    let text = String::with_capacity(source.len() * 2);
    let mut writer = Writer { text, line: 1, special, strings: Vec::new(), loop_can_be_left: false };
    writer.statement(&tree)?;
    Ok((writer.text, writer.strings))
}

struct Writer<'s> {
    text: String,
    /// The line on which the next character comes to stand.
    line: u16,
    special: &'s SpecialTokens,
    /// Those in expressions.
    strings: Vec<String>,
    /// Whether nothing but conditions stands between here and the loop around. The engine's `break` and `continue` jump
    /// without ending what else they leave, and then it panics on scopes that do not match.
    loop_can_be_left: bool,
}

type Written = Result<(), Error>;

impl Writer<'_> {
    /// Inside of tags only: blank lines up to the one of the source, so that errors name that one.
    fn at(&mut self, span: Span) {
        while self.line < span.start_line {
            self.text.push('\n');
            self.line += 1;
        }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Opens the tag of a statement.
    fn tag(&mut self, span: Span, keyword: &str) {
        self.push("{% ");
        self.at(span);
        self.push(keyword);
    }

    /// Those inside of a condition.
    fn statements(&mut self, statements: &[ast::Stmt<'_>]) -> Written {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    /// Those inside of anything else.
    fn body(&mut self, statements: &[ast::Stmt<'_>], of_loop: bool) -> Written {
        let outside = std::mem::replace(&mut self.loop_can_be_left, of_loop);
        self.statements(statements)?;
        self.loop_can_be_left = outside;
        Ok(())
    }

    fn leave_loop(&mut self, span: Span, keyword: &str) -> Written {
        if !self.loop_can_be_left {
            return Err(unknown(&format!("`{keyword}` with another block between it and its loop")));
        }
        self.tag(span, keyword);
        self.push(" %}");
        Ok(())
    }

    fn statement(&mut self, statement: &ast::Stmt<'_>) -> Written {
        use ast::Stmt;
        match statement {
            Stmt::Template(template) => self.statements(&template.children)?,
            Stmt::EmitRaw(raw) => {
                self.push("{{ ");
                self.at(raw.span());
                self.string(raw.raw, Author::Printed);
                self.push(" }}");
            }
            Stmt::EmitExpr(emit) => {
                self.push("{{ ");
                self.printed(&emit.expr, Self::expression)?;
                self.push(" }}");
            }
            Stmt::ForLoop(statement) => self.for_loop(statement, statement.span())?,
            Stmt::IfCond(condition) => {
                self.tag(condition.span(), "if ");
                self.condition(condition)?;
            }
            Stmt::WithBlock(with) => {
                self.tag(with.span(), "with ");
                for (index, (target, value)) in with.assignments.iter().enumerate() {
                    self.push(if index > 0 { ", " } else { "" });
                    self.target(target, true)?;
                    self.push(" = ");
                    self.expression(value)?;
                }
                self.push(" %}");
                self.body(&with.body, false)?;
                self.push("{% endwith %}");
            }
            Stmt::Set(set) => {
                self.tag(set.span(), "set ");
                self.target(&set.target, false)?;
                self.push(" = ");
                if matches!(set.target, ast::Expr::GetAttr(_)) && !is_constant(&set.expr) {
                    // A namespace changes after it was measured, so none may get into what is measured.
                    self.operand(&set.expr)?;
                    self.push("|__held %}");
                } else {
                    self.expression(&set.expr)?;
                    self.push(" %}");
                }
            }
            Stmt::SetBlock(set) => {
                self.tag(set.span(), "set ");
                self.target(&set.target, false)?;
                if let Some(filter) = &set.filter {
                    self.push(" | ");
                    self.expression(filter)?;
                }
                self.push(" %}");
                self.body(&set.body, false)?;
                self.push("{% endset %}");
            }
            Stmt::AutoEscape(block) => {
                self.tag(block.span(), "autoescape ");
                self.expression(&block.enabled)?;
                self.push(" %}");
                self.body(&block.body, false)?;
                self.push("{% endautoescape %}");
            }
            Stmt::FilterBlock(block) => {
                self.tag(block.span(), "filter ");
                self.expression(&block.filter)?;
                self.push(" %}");
                self.body(&block.body, false)?;
                self.push("{% endfilter %}");
            }
            Stmt::Block(block) => {
                self.tag(block.span(), "block ");
                self.push(block.name);
                self.push(" %}");
                self.body(&block.body, false)?;
                self.push("{% endblock %}");
            }
            Stmt::Macro(declared) => {
                self.tag(declared.span(), "macro ");
                self.push(declared.name);
                self.parameters(declared)?;
                self.push(" %}");
                self.body(&declared.body, false)?;
                self.push("{% endmacro %}");
            }
            Stmt::CallBlock(block) => {
                self.tag(block.span(), "call");
                self.parameters(&block.macro_decl)?;
                self.push(" ");
                self.call(&block.call)?;
                self.push(" %}");
                self.body(&block.macro_decl.body, false)?;
                self.push("{% endcall %}");
            }
            Stmt::Do(statement) => {
                self.tag(statement.span(), "do ");
                self.call(&statement.call)?;
                self.push(" %}");
            }
            Stmt::Continue(statement) => self.leave_loop(statement.span(), "continue")?,
            Stmt::Break(statement) => self.leave_loop(statement.span(), "break")?,
            // As in transformers, there is nothing to load a template from; only a template that gets here fails.
            Stmt::Import(statement) => self.tag(statement.span(), "do __other_template() %}"),
            Stmt::FromImport(statement) => self.tag(statement.span(), "do __other_template() %}"),
            Stmt::Extends(statement) => self.tag(statement.span(), "do __other_template() %}"),
            Stmt::Include(statement) => self.tag(statement.span(), "do __other_template() %}"),
        }
        Ok(())
    }

    fn for_loop(&mut self, statement: &ast::ForLoop<'_>, span: Span) -> Written {
        self.tag(span, "for ");
        self.target(&statement.target, false)?;
        self.push(" in ");
        self.operand(&statement.iter)?;
        self.push("|__each");
        if let Some(filter) = &statement.filter_expr {
            self.push(" if ");
            self.expression(filter)?;
        }
        self.push(if statement.recursive { " recursive %}" } else { " %}" });
        self.body(&statement.body, true)?;
        if !statement.else_body.is_empty() {
            self.push("{% else %}");
            self.statements(&statement.else_body)?;
        }
        self.push("{% endfor %}");
        Ok(())
    }

    /// From behind `if` on. Chains stay chains, since the parser's depth is limited.
    fn condition(&mut self, condition: &ast::IfCond<'_>) -> Written {
        self.expression(&condition.expr)?;
        self.push(" %}");
        self.statements(&condition.true_body)?;
        match condition.false_body.as_slice() {
            [] => self.push("{% endif %}"),
            [ast::Stmt::IfCond(next)] => {
                self.tag(next.span(), "elif ");
                self.condition(next)?;
            }
            statements => {
                self.push("{% else %}");
                self.statements(statements)?;
                self.push("{% endif %}");
            }
        }
        Ok(())
    }

    fn parameters(&mut self, declared: &ast::Macro<'_>) -> Written {
        self.push("(");
        let required = declared.args.len() - declared.defaults.len();
        for (index, parameter) in declared.args.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.target(parameter, true)?;
            if let Some(default) = index.checked_sub(required).and_then(|index| declared.defaults.get(index)) {
                self.push("=");
                self.expression(default)?;
            }
        }
        self.push(")");
        Ok(())
    }

    /// What is assigned to.
    fn target(&mut self, target: &ast::Expr<'_>, nested: bool) -> Written {
        match target {
            ast::Expr::Var(variable) => self.push(variable.id),
            ast::Expr::GetAttr(attribute) => {
                self.target(&attribute.expr, true)?;
                self.push(".");
                self.push(attribute.name);
            }
            ast::Expr::List(list) => {
                self.push(if nested { "(" } else { "" });
                for (index, item) in list.items.iter().enumerate() {
                    self.push(if index > 0 { ", " } else { "" });
                    self.target(item, true)?;
                }
                self.push(if list.items.len() == 1 { "," } else { "" });
                self.push(if nested { ")" } else { "" });
            }
            other => return Err(unknown(other.description())),
        }
        Ok(())
    }

    /// An operand, or what a filter or a test is applied to.
    fn operand(&mut self, expression: &ast::Expr<'_>) -> Written {
        use ast::Expr::{Filter, List, Map, Tuple};
        if matches!(expression, Filter(_) | List(_) | Map(_) | Tuple(_)) {
            return self.expression(expression);
        }
        self.base(expression)
    }

    /// What an attribute, an index, a call or a minus is applied to. They bind tighter than filters.
    fn base(&mut self, expression: &ast::Expr<'_>) -> Written {
        use ast::Expr::{Call, Const, GetAttr, GetItem, Slice, Var};
        let bound = match expression {
            Var(_) | GetAttr(_) | GetItem(_) | Slice(_) | Call(_) => true,
            Const(constant) => constant.value.kind() == ValueKind::String,
            _ => false,
        };
        if bound {
            return self.expression(expression);
        }
        self.push("(");
        self.expression(expression)?;
        self.push(")");
        Ok(())
    }

    fn expression(&mut self, expression: &ast::Expr<'_>) -> Written {
        use ast::Expr;
        self.at(expression.span());
        match expression {
            Expr::Var(variable) => self.push(variable.id),
            Expr::Const(constant) => self.constant(&constant.value)?,
            Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => {
                self.container(expression)?;
                self.push(if is_constant(expression) { "" } else { "|__held" });
            }
            Expr::UnaryOp(operation) => {
                self.push(match operation.op {
                    ast::UnaryOpKind::Not => "not ",
                    ast::UnaryOpKind::Neg => "-",
                });
                self.base(&operation.expr)?;
            }
            Expr::BinOp(operation) => self.binary(operation)?,
            Expr::Compare(comparison) => {
                let shallow = comparison.ops.len() == 1
                    && (is_constant(&comparison.expr) || is_constant(&comparison.ops[0].expr));
                self.compared(&comparison.expr, shallow)?;
                for operation in &comparison.ops {
                    self.push(match operation.op {
                        ast::CompareOpKind::Eq => " == ",
                        ast::CompareOpKind::Ne => " != ",
                        ast::CompareOpKind::Lt => " < ",
                        ast::CompareOpKind::Lte => " <= ",
                        ast::CompareOpKind::Gt => " > ",
                        ast::CompareOpKind::Gte => " >= ",
                        ast::CompareOpKind::In => " in ",
                        ast::CompareOpKind::NotIn => " not in ",
                    });
                    self.compared(&operation.expr, shallow)?;
                }
            }
            Expr::IfExpr(choice) => {
                self.operand(&choice.true_expr)?;
                self.push(" if ");
                self.operand(&choice.test_expr)?;
                if let Some(otherwise) = &choice.false_expr {
                    self.push(" else ");
                    self.operand(otherwise)?;
                }
            }
            Expr::Filter(filter) => {
                if let Some(input) = &filter.expr {
                    self.operand(input)?;
                    self.push("|");
                }
                self.push(filter.name);
                self.arguments(&filter.args, true, "")?;
            }
            Expr::Test(test) => {
                self.operand(&test.expr)?;
                self.push(" is ");
                self.push(test.name);
                self.arguments(&test.args, true, "")?;
            }
            Expr::GetAttr(attribute) => {
                self.base(&attribute.expr)?;
                self.push(".");
                self.push(attribute.name);
            }
            Expr::GetItem(item) => {
                self.base(&item.expr)?;
                self.push("[");
                // A key is hashed or compared with all of it.
                self.compared(&item.subscript_expr, is_constant(&item.subscript_expr))?;
                self.push("]");
            }
            Expr::Slice(slice) => {
                self.base(&slice.expr)?;
                self.push("[");
                for (index, bound) in [&slice.start, &slice.stop, &slice.step].into_iter().enumerate() {
                    self.push(if index > 0 { ":" } else { "" });
                    if let Some(bound) = bound {
                        self.operand(bound)?;
                    }
                }
                self.push("]");
            }
            Expr::Call(call) => self.call(call)?,
        }
        Ok(())
    }

    /// An operand of a comparison, paid for in advance unless one is a constant, where it ends at once.
    fn compared(&mut self, expression: &ast::Expr<'_>, shallow: bool) -> Written {
        self.operand(expression)?;
        self.push(if shallow { "" } else { "|__weighed" });
        Ok(())
    }

    fn binary(&mut self, operation: &ast::BinOp<'_>) -> Written {
        use ast::BinOpKind;
        let sign = match operation.op {
            BinOpKind::Add => return self.folded(operation, "__added"),
            BinOpKind::Concat => return self.folded(operation, "__concatenated"),
            BinOpKind::Mul => {
                self.push("(");
                self.operand(&operation.left)?;
                self.push(" * ");
                self.operand(&operation.right)?;
                self.push(")|__held");
                return Ok(());
            }
            BinOpKind::ScAnd => " and ",
            BinOpKind::ScOr => " or ",
            BinOpKind::Sub => " - ",
            BinOpKind::Div => " / ",
            BinOpKind::FloorDiv => " // ",
            BinOpKind::Rem => " % ",
            BinOpKind::Pow => " ** ",
            BinOpKind::Eq => " == ",
            BinOpKind::Ne => " != ",
            BinOpKind::Lt => " < ",
            BinOpKind::Lte => " <= ",
            BinOpKind::Gt => " > ",
            BinOpKind::Gte => " >= ",
            BinOpKind::In => " in ",
        };
        match operation.op {
            BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In => {
                let shallow = is_constant(&operation.left) || is_constant(&operation.right);
                self.compared(&operation.left, shallow)?;
                self.push(sign);
                self.compared(&operation.right, shallow)
            }
            _ => {
                // From the left on, all but powers need no parentheses in a chain.
                let chain = chain(operation, |op| {
                    std::mem::discriminant(&op) == std::mem::discriminant(&operation.op)
                        && !matches!(op, BinOpKind::Pow)
                });
                for (index, operand) in chain.into_iter().enumerate() {
                    self.push(if index > 0 { sign } else { "" });
                    self.operand(operand)?;
                }
                Ok(())
            }
        }
    }

    /// A chain of one operator as a filter that takes many operands at once.
    fn folded(&mut self, operation: &ast::BinOp<'_>, filter: &str) -> Written {
        /// The engine's own limit is 2,000 arguments.
        const OPERANDS_PER_FILTER: usize = 1000;
        let same = |op| std::mem::discriminant(&op) == std::mem::discriminant(&operation.op);
        let operands = chain(operation, same);
        let (first, others) = operands.split_at(1);
        self.printed(first[0], Self::operand)?;
        for operands in others.chunks(OPERANDS_PER_FILTER) {
            self.push("|");
            self.push(filter);
            self.push("(");
            for operand in operands {
                self.printed(operand, Self::expression)?;
                self.push(", ");
            }
            self.push(")");
        }
        Ok(())
    }

    /// What is printed, or put together with what follows; `otherwise` writes what is no literal text.
    fn printed(&mut self, expression: &ast::Expr<'_>, otherwise: fn(&mut Self, &ast::Expr<'_>) -> Written) -> Written {
        match expression {
            ast::Expr::Const(constant) if let Some(text) = constant.value.as_str() => {
                self.at(expression.span());
                self.strings.push(text.to_owned());
                self.string(text, Author::Printed);
                Ok(())
            }
            other => otherwise(self, other),
        }
    }

    fn call(&mut self, call: &ast::Call<'_>) -> Written {
        self.base(&call.expr)?;
        // `loop.changed` compares with what it was given before.
        let compares = matches!(&call.expr, ast::Expr::GetAttr(method) if method.name == "changed");
        self.arguments(&call.args, false, if compares { "|__weighed" } else { "" })
    }

    /// Arguments, `filter` behind each.
    fn arguments(&mut self, arguments: &[ast::CallArg<'_>], optional: bool, filter: &str) -> Written {
        if optional && arguments.is_empty() {
            return Ok(());
        }
        self.push("(");
        for (index, argument) in arguments.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            let value = match argument {
                ast::CallArg::Pos(value) => value,
                ast::CallArg::Kwarg(name, value) => {
                    self.push(name);
                    self.push("=");
                    value
                }
                ast::CallArg::PosSplat(value) => {
                    self.push("*");
                    value
                }
                ast::CallArg::KwargSplat(value) => {
                    self.push("**");
                    value
                }
            };
            if filter.is_empty() {
                self.expression(value)?;
            } else {
                self.operand(value)?;
                self.push(filter);
            }
        }
        self.push(")");
        Ok(())
    }

    /// A list, tuple or dict. Those directly in it are measured with it.
    fn container(&mut self, expression: &ast::Expr<'_>) -> Written {
        self.at(expression.span());
        match expression {
            ast::Expr::List(list) => {
                self.push("[");
                for item in &list.items {
                    self.container(item)?;
                    self.push(", ");
                }
                self.push("]");
            }
            ast::Expr::Tuple(tuple) => {
                self.push("(");
                for item in &tuple.items {
                    self.container(item)?;
                    self.push(", ");
                }
                self.push(")");
            }
            ast::Expr::Map(map) => {
                self.push("{");
                for (key, value) in map.keys.iter().zip(&map.values) {
                    self.compared(key, is_constant(key))?;
                    self.push(": ");
                    self.container(value)?;
                    self.push(", ");
                }
                self.push("}");
            }
            other => self.expression(other)?,
        }
        Ok(())
    }

    fn constant(&mut self, value: &Value) -> Written {
        match value.kind() {
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.strings.push(text.to_owned());
                self.string(text, Author::Template);
            }
            ValueKind::None => self.push("none"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.push(&value.to_string()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                // Too large a literal is infinite; there is no name for that.
                let _ = if number.is_finite() { write!(self.text, "{number:?}") } else { write!(self.text, "1e999") };
            }
            kind => return Err(unknown(&format!("constant of type {kind}"))),
        }
        Ok(())
    }

    fn string(&mut self, text: &str, author: Author) {
        self.text.push('"');
        let special = self.special;
        for character in special.marked(text, author).chars() {
            match character {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }
}

/// The operands of a chain that associates to the left, such as `a + b + c`.
fn chain<'e, 's>(operation: &'e ast::BinOp<'s>, same: impl Fn(ast::BinOpKind) -> bool) -> Vec<&'e ast::Expr<'s>> {
    let mut operands = vec![&operation.right];
    let mut left = &operation.left;
    while let ast::Expr::BinOp(next) = left
        && same(next.op)
    {
        operands.push(&next.right);
        left = &next.left;
    }
    operands.push(left);
    operands.reverse();
    operands
}

/// Whether an expression is a literal, and holds no container.
fn is_constant(expression: &ast::Expr<'_>) -> bool {
    let all = |items: &[ast::Expr<'_>]| items.iter().all(|item| matches!(item, ast::Expr::Const(_)));
    match expression {
        ast::Expr::Const(_) => true,
        ast::Expr::List(list) => all(&list.items),
        ast::Expr::Tuple(tuple) => all(&tuple.items),
        _ => false,
    }
}

fn unknown(what: &str) -> Error {
    Error::new(ErrorKind::SyntaxError, format!("a {what} cannot stand here"))
}
